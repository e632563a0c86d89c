// SPDX-License-Identifier: BSD-3-Clause
// Step 1 of a sample's path: what all samplers of samples share.
#include <c10/util/Exception.h>
#include <lockstep/data/samplers/epoch_sampler.h>

#include <limits>

namespace lockstep::data {
namespace {

// Leaves room for what padding adds.
constexpr auto kLargest = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max() / 2);

}  // namespace

EpochSampler::EpochSampler(const Facts& facts)
    : name_(facts.name),
      dataset_size_(facts.dataset_size),
      order_size_(facts.order_size),
      share_(facts.name, facts.world_size, facts.rank, facts.remainder),
      seed_(facts.seed) {
  TORCH_CHECK(dataset_size_ > 0 && dataset_size_ <= kLargest, name_, ": dataset_size is ",
              dataset_size_, "; it must be from 1 to ", kLargest);
  TORCH_CHECK(order_size_ > 0 && order_size_ <= kLargest, name_, ": num_samples is ", order_size_,
              "; it must be from 1 to ", kLargest);
  size_ = share_.size(order_size_);
}

void EpochSampler::set_epoch(std::int64_t epoch) {
  TORCH_CHECK(epoch >= 0, name_, ": epoch is ", epoch, "; it must not be negative");
  if (epoch == epoch_) return;
  epoch_ = epoch;
  start_at(0);
  epoch_changed();
}

void EpochSampler::start_at(std::uint64_t global_position) {
  share_.start_at(global_position, order_size_);
  size_ = share_.size(order_size_);
}

std::uint64_t EpochSampler::global_position(std::size_t local_samples) const noexcept {
  return share_.consumed(local_samples, order_size_);
}

std::int64_t EpochSampler::index(std::size_t position) const {
  TORCH_CHECK(position < size(), name_, ": position ", position, " is not below the size ", size());
  return at(share_.place(position, order_size_));
}

void EpochSampler::append_indices(std::size_t position, std::size_t count,
                                  std::vector<std::int64_t>& indices) const {
  const auto all = size();
  TORCH_CHECK(position <= all && count <= all - position, name_, ": positions ", position, " to ",
              position, " + ", count, " are not below the size ", all);
  const auto before = indices.size();
  indices.resize(before + count);
  const auto mine = std::span(indices).subspan(before);
  try {
    // What padding adds does not follow in the order.
    const auto run = share_.run(position, count, order_size_);
    if (run != 0) fill(mine.first(run), share_.place(position, order_size_), share_.step());
    for (auto i = run; i < count; ++i) mine[i] = at(share_.place(position + i, order_size_));
  } catch (...) {
    indices.resize(before);
    throw;
  }
}

void EpochSampler::fill(std::span<std::int64_t> indices, std::uint64_t position,
                        std::uint64_t step) const {
  for (auto& index : indices) {
    index = at(position);
    position += step;
  }
}

std::vector<std::int64_t> EpochSampler::indices() const {
  std::vector<std::int64_t> mine;
  append_indices(0, size(), mine);
  return mine;
}

}  // namespace lockstep::data
