// SPDX-License-Identifier: BSD-3-Clause
#include "comm/hierarchical/chain.h"

#include <algorithm>
#include <utility>

#include "comm/collective/reduce_kernels.h"
#include "comm/mpi/transport.h"

namespace lockstep {
namespace {

using native::check_mpi;

constexpr int kForwardTag = 3;
constexpr int kBackTag = 4;
// Long enough for the bandwidth of a network, short enough that all hosts of a chain soon work.
constexpr std::size_t kPieceBytes = std::size_t{256} << 10;

}  // namespace

MpiChain::MpiChain(const Place& place, at::ScalarType dtype, ReduceOp op)
    : place_(place), dtype_(dtype), op_(op) {}

std::size_t MpiChain::elements_of(std::size_t piece) const {
  const std::size_t element = c10::elementSize(dtype_);
  const std::size_t start = piece * kPieceBytes;
  return std::min(kPieceBytes, result_.size() - start) / element;
}

std::byte* MpiChain::partial(std::size_t piece) {
  const std::size_t elements = kPieceBytes / c10::elementSize(dtype_);
  return partials_.data() + piece * elements * accumulator_bytes(dtype_);
}

std::span<std::byte> MpiChain::result(std::size_t piece) {
  return result_.subspan(piece * kPieceBytes, elements_of(piece) * c10::elementSize(dtype_));
}

void MpiChain::start(std::vector<const std::byte*> values, std::span<std::byte> result_bytes) {
  values_ = std::move(values);
  result_ = result_bytes;
  pieces_ = (result_.size() + kPieceBytes - 1) / kPieceBytes;
  forward_ = back_ = 0;
  for (auto* requests : {&partial_receives_, &result_receives_, &sends_}) requests->clear();
  if (place_.previous || place_.next) {
    partials_.resize(result_.size() / c10::elementSize(dtype_) * accumulator_bytes(dtype_));
  }
  for (std::size_t piece = 0; place_.previous && piece < pieces_; ++piece) {
    const auto bytes = elements_of(piece) * accumulator_bytes(dtype_);
    check_mpi(MPI_Irecv(partial(piece), to_mpi_count(bytes), MPI_BYTE, *place_.previous,
                        kForwardTag, place_.communicator, partial_receives_.add()),
              "MPI_Irecv");
  }
  for (std::size_t piece = 0; place_.next && place_.takes_result && piece < pieces_; ++piece) {
    const auto bytes = result(piece);
    check_mpi(MPI_Irecv(bytes.data(), to_mpi_count(bytes.size()), MPI_BYTE, *place_.next, kBackTag,
                        place_.communicator, result_receives_.add()),
              "MPI_Irecv");
  }
}

void MpiChain::send(std::span<const std::byte> bytes, int to, int tag) {
  check_mpi(MPI_Isend(bytes.data(), to_mpi_count(bytes.size()), MPI_BYTE, to, tag,
                      place_.communicator, sends_.add()),
            "MPI_Isend");
}

void MpiChain::add_own(std::size_t piece) {
  std::vector<const void*> inputs;
  for (const std::byte* value : values_) inputs.push_back(value + piece * kPieceBytes);
  const void* before = place_.previous ? partial(piece) : nullptr;
  const std::size_t elements = elements_of(piece);
  if (place_.next) {
    reduce_some_ranks(dtype_, op_, before, inputs, partial(piece), elements);
    send({partial(piece), elements * accumulator_bytes(dtype_)}, *place_.next, kForwardTag);
    return;
  }
  reduce_last_ranks(dtype_, op_, before, inputs, result(piece).data(), elements, place_.world_size);
  if (place_.previous && place_.hands_result_on) send(result(piece), *place_.previous, kBackTag);
}

bool MpiChain::is_result_due() const {
  return place_.next && place_.takes_result && back_ < pieces_;
}

bool MpiChain::advance() {
  while (forward_ < pieces_ && (!place_.previous || partial_receives_.is_done(forward_))) {
    add_own(forward_++);
  }
  while (is_result_due() && result_receives_.is_done(back_)) {
    if (place_.previous && place_.hands_result_on) send(result(back_), *place_.previous, kBackTag);
    ++back_;
  }
  if (forward_ < pieces_ || is_result_due()) return false;
  // All requests are complete; this frees them.
  return partial_receives_.test() && result_receives_.test() && sends_.test();
}

std::optional<int> MpiChain::waits_for() const {
  if (forward_ < pieces_) return place_.previous;
  return is_result_due() ? place_.next : std::nullopt;
}

}  // namespace lockstep
