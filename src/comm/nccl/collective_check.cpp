// SPDX-License-Identifier: BSD-3-Clause
#include "comm/nccl/collective_check.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <span>
#include <utility>
#include <vector>

#include "comm/collective/message.h"
#include "comm/collective/operation.h"

namespace lockstep {
namespace {

std::vector<std::uint64_t> lengths_of(const Collective& call, int world_size) {
  // The same number of words from every rank, whatever it calls: only then can calls be compared.
  std::vector<std::uint64_t> lengths(2 * static_cast<std::size_t>(world_size), 0);
  if (!call.has_own_sizes) return lengths;
  const auto bytes = [](const at::Tensor& tensor) { return std::uint64_t{tensor.nbytes()}; };
  std::transform(call.inputs.begin(), call.inputs.end(), lengths.begin(), bytes);
  std::transform(call.outputs.begin(), call.outputs.end(), lengths.begin() + world_size, bytes);
  return lengths;
}

class FingerprintCheck final : public CollectiveCheck {
 public:
  FingerprintCheck(ProcessGroup& control, const at::Tensor& all, const at::Tensor& own)
      : CollectiveCheck(control.all_gather(all, own)), all_(all), world_size_(control.size()) {}

  static at::Tensor describe(const Fingerprint& print, const std::vector<std::uint64_t>& lengths) {
    const std::size_t words = lengths.size() * sizeof(lengths[0]);
    const auto own = at::zeros({static_cast<std::int64_t>(sizeof(print) + words)}, at::kByte);
    auto* bytes = own.data_ptr<std::uint8_t>();
    std::memcpy(bytes, &print, sizeof(print));
    std::memcpy(bytes + sizeof(print), lengths.data(), words);
    return own;
  }

 private:
  void compare() override {
    const auto row = [this](int rank) {
      return all_.const_data_ptr<std::uint8_t>() + rank * all_.size(1);
    };
    check_fingerprints(world_size_, [&](int rank) {
      Fingerprint print;
      std::memcpy(&print, row(rank), sizeof(print));
      return print;
    });
    const auto ranks = static_cast<std::size_t>(world_size_);
    std::vector<std::uint64_t> words(ranks * 2 * ranks);
    std::vector<std::span<const std::uint64_t>> lengths;
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      std::uint64_t* place = words.data() + rank * 2 * ranks;
      std::memcpy(place, row(static_cast<int>(rank)) + sizeof(Fingerprint),
                  2 * ranks * sizeof(*place));
      lengths.emplace_back(place, 2 * ranks);
    }
    check_lengths(lengths);
  }

  at::Tensor all_;
  int world_size_;
};

at::Tensor header_tensor(const at::Tensor& tensor, int tag) {
  const MessageHeader header = MessageHeader::of(tensor, tag);
  const auto bytes = at::empty({static_cast<std::int64_t>(sizeof(header))}, at::kByte);
  std::memcpy(bytes.data_ptr(), &header, sizeof(header));
  return bytes;
}

class SendCheck final : public CollectiveCheck {
 public:
  explicit SendCheck(Work work) : CollectiveCheck(std::move(work)) {}

 private:
  void compare() override {}
};

class ReceiveCheck final : public CollectiveCheck {
 public:
  ReceiveCheck(Work work, const at::Tensor& header, MessageHeader expected, int from)
      : CollectiveCheck(std::move(work)), header_(header), expected_(expected), from_(from) {}

 private:
  void compare() override {
    MessageHeader sent;
    std::memcpy(&sent, header_.const_data_ptr(), sizeof(sent));
    check_message(sent, expected_, from_);
    if (sent.tag == expected_.tag) return;
    throw OperationFailure{OperationFailure::Kind::Mismatch,
                           "rank " + std::to_string(from_) + " sent " + lockstep::describe(sent) +
                               ", this rank expects " + lockstep::describe(expected_),
                           "over NCCL messages between two ranks match in the order of the calls"};
  }

  at::Tensor header_;
  MessageHeader expected_;
  int from_;
};

}  // namespace

bool CollectiveCheck::is_passed() {
  if (is_passed_) return true;
  if (!work_.is_completed()) return false;
  if (const auto error = work_.exception()) std::rethrow_exception(error);
  compare();
  is_passed_ = true;
  return true;
}

std::string CollectiveCheck::describe_missing() {
  try {
    work_.wait(std::chrono::milliseconds(0));
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "no rank is late any more";
}

std::unique_ptr<CollectiveCheck> check_allocation(ProcessGroup& control, std::size_t bytes) {
  Fingerprint print;
  print.elements = bytes;
  const auto own = FingerprintCheck::describe(print, lengths_of(Collective{}, control.size()));
  const auto all = at::empty({control.size(), own.numel()}, at::kByte);
  return std::make_unique<FingerprintCheck>(control, all, own);
}

std::unique_ptr<CollectiveCheck> check_collective(ProcessGroup& control, const Collective& call) {
  const auto own =
      FingerprintCheck::describe(fingerprint_of(call), lengths_of(call, control.size()));
  const auto all = at::empty({control.size(), own.numel()}, at::kByte);
  return std::make_unique<FingerprintCheck>(control, all, own);
}

std::unique_ptr<CollectiveCheck> check_send(const StartMessage& send, const at::Tensor& tensor,
                                            int tag) {
  return std::make_unique<SendCheck>(send(header_tensor(tensor, tag)));
}

std::unique_ptr<CollectiveCheck> check_receive(const StartMessage& receive,
                                               const at::Tensor& tensor, int from, int tag) {
  const auto header = at::empty({static_cast<std::int64_t>(sizeof(MessageHeader))}, at::kByte);
  return std::make_unique<ReceiveCheck>(receive(header), header, MessageHeader::of(tensor, tag),
                                        from);
}

}  // namespace lockstep
