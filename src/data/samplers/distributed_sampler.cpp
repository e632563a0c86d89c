// SPDX-License-Identifier: BSD-3-Clause
// Step 1 of a sample's path: decides which samples this rank sees, in which order. After it:
// data_loader cuts batches.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/randperm.h>
#include <c10/util/Exception.h>
#include <lockstep/data/samplers/distributed_sampler.h>

#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "data/samplers/lazy_order.h"
#include "data/samplers/mix.h"
#include "native/posix/available_memory.h"

namespace lockstep::data {
namespace {

constexpr std::size_t kMebibyte = std::size_t{1} << 20;

std::vector<std::int64_t> pytorch_order(std::size_t size, std::uint64_t seed) {
  const auto refuse = [&](const std::string& why) {
    TORCH_CHECK(false, "DistributedSampler: PyTorch's order of ", size, " samples takes ",
                size / (kMebibyte / sizeof(std::int64_t)), " MiB of memory: ", why,
                ". ShuffleOrder::Keyed takes none: DistributedSamplerOptions::order, or "
                "DataLoaderOptions::shuffle_order for a loader without a sampler");
  };
  // Asked for first: the system gives more than there is, and ends the program when it is used.
  const auto available = native::available_memory();
  if (size > available / sizeof(std::int64_t)) {
    refuse(std::to_string(available / kMebibyte) + " MiB are left");
  }
  try {
    std::vector<std::int64_t> order(size);
    auto generator = at::detail::createCPUGenerator(seed);
    auto tensor = at::from_blob(order.data(), {static_cast<std::int64_t>(size)}, at::kLong);
    at::randperm_out(tensor, static_cast<std::int64_t>(size), generator);
    return order;
  } catch (const std::bad_alloc& error) {
    refuse(error.what());
  } catch (const std::length_error& error) {
    refuse(error.what());
  }
  return {};
}

}  // namespace

DistributedSampler::DistributedSampler(std::size_t dataset_size, int world_size, int rank,
                                       DistributedSamplerOptions options)
    : EpochSampler({"DistributedSampler", dataset_size, dataset_size, world_size, rank,
                    options.seed(), options.remainder()}),
      options_(std::move(options)) {
  set_shuffled(options_.shuffle());
  set_fingerprint(OrderFingerprint(options_.shuffle() ? "shuffled" : "sequential")
                      .add(options_.shuffle() ? static_cast<std::uint64_t>(options_.order()) : 0)
                      .add(dataset_size)
                      .value());
  DistributedSampler::epoch_changed();
}

void DistributedSampler::epoch_changed() {
  if (!options_.shuffle()) return;
  if (options_.order() == ShuffleOrder::Keyed) {
    keyed_.emplace(dataset_size(), seed(), epoch());
    return;
  }
  pytorch_ = std::make_shared<detail::LazyOrder>(
      [size = dataset_size(), generator_seed = seed() + static_cast<std::uint64_t>(epoch())] {
        return pytorch_order(size, generator_seed);
      });
}

std::int64_t DistributedSampler::at(std::uint64_t position) const {
  if (keyed_) return static_cast<std::int64_t>((*keyed_)(position));
  if (pytorch_ != nullptr) return pytorch_->at(position);
  return static_cast<std::int64_t>(position);
}

void DistributedSampler::fill(std::span<std::int64_t> indices, std::uint64_t position,
                              std::uint64_t step) const {
  if (keyed_) return keyed_->fill(indices, position, step);
  if (pytorch_ != nullptr) return pytorch_->fill(indices, position, step);
  EpochSampler::fill(indices, position, step);
}

}  // namespace lockstep::data
