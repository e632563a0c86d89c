// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/data/samplers/detail/keyed_permutation.h>
#include <lockstep/data/samplers/length_bucket_sampler.h>

#include <algorithm>
#include <limits>
#include <mutex>
#include <span>
#include <utility>

#include "data/samplers/mix.h"

namespace lockstep::data {
namespace detail {

// The batches of one epoch, made by the first who asks. Thread-safe.
class BucketPlan {
 public:
  using Lengths = std::shared_ptr<const std::vector<std::int64_t>>;

  BucketPlan(Lengths lengths, const LengthBucketSamplerOptions& options, std::int64_t epoch)
      : lengths_(std::move(lengths)), options_(options), epoch_(epoch) {}

  [[nodiscard]] std::size_t size() const {
    make_once();
    return order_.size();
  }
  [[nodiscard]] std::span<const std::int64_t> batch(std::size_t number) const {
    make_once();
    const auto [first, count] = order_[number];
    return std::span(samples_).subspan(first, count);
  }

 private:
  struct Batch {
    std::size_t first;
    std::size_t count;
  };

  void make_once() const {
    std::call_once(once_, [this] { make(); });
  }

  void make() const {
    const auto size = lengths_->size();
    const detail::KeyedPermutation shuffled(size, options_.seed(), epoch_);
    samples_.resize(size);
    for (std::size_t i = 0; i < size; ++i) {
      samples_[i] = static_cast<std::int64_t>(options_.shuffle() ? shuffled(i) : i);
    }
    std::vector<Batch> batches;
    const auto pool = options_.pool_batches() > size / options_.batch_size()
                          ? size
                          : options_.pool_batches() * options_.batch_size();
    for (std::size_t first = 0; first < size; first += std::min(pool, size - first)) {
      cut_pool(first, std::min(pool, size - first), batches);
    }
    const detail::KeyedPermutation mixed(batches.size(), options_.seed(), epoch_, 1);
    order_.resize(batches.size());
    for (std::size_t i = 0; i < batches.size(); ++i) {
      order_[i] = batches[options_.shuffle() ? mixed(i) : i];
    }
  }

  void cut_pool(std::size_t first, std::size_t count, std::vector<Batch>& batches) const {
    const auto begin = samples_.begin() + static_cast<std::ptrdiff_t>(first);
    std::stable_sort(begin, begin + static_cast<std::ptrdiff_t>(count),
                     [this](std::int64_t a, std::int64_t b) { return length(a) < length(b); });
    Batch batch{first, 0};
    for (std::size_t i = first; i < first + count; ++i) {
      const auto elements_fit = [&](std::size_t samples) {
        return options_.max_elements() == 0 || length(samples_[i]) == 0 ||
               samples <= static_cast<std::size_t>(options_.max_elements() / length(samples_[i]));
      };
      if (batch.count == options_.batch_size() ||
          (batch.count > 0 && !elements_fit(batch.count + 1))) {
        batches.push_back(batch);
        batch = {i, 0};
      }
      ++batch.count;
    }
    batches.push_back(batch);
  }

  [[nodiscard]] std::int64_t length(std::int64_t sample) const {
    return (*lengths_)[static_cast<std::size_t>(sample)];
  }

  Lengths lengths_;
  LengthBucketSamplerOptions options_;
  std::int64_t epoch_;
  mutable std::once_flag once_;
  mutable std::vector<std::int64_t> samples_;
  mutable std::vector<Batch> order_;
};

}  // namespace detail

namespace {

constexpr const char* kLengthBuckets = "LengthBucketSampler";

}  // namespace

LengthBucketSampler::LengthBucketSampler(std::vector<std::int64_t> lengths, int world_size,
                                         int rank, const LengthBucketSamplerOptions& options)
    : lengths_(std::make_shared<const std::vector<std::int64_t>>(std::move(lengths))),
      share_(kLengthBuckets, world_size, rank, options.remainder()),
      options_(options) {
  TORCH_CHECK(!lengths_->empty(), kLengthBuckets, ": no lengths are given; at least 1 is needed");
  TORCH_CHECK(options.batch_size() > 0, kLengthBuckets, ": batch_size is 0; it must be at least 1");
  TORCH_CHECK(options.pool_batches() > 0, kLengthBuckets,
              ": pool_batches is 0; it must be at least 1");
  TORCH_CHECK(options.max_elements() >= 0, kLengthBuckets, ": max_elements is ",
              options.max_elements(), "; it must not be negative");
  options_.batch_size(std::min(options.batch_size(), lengths_->size()));
  const auto limit = options.max_elements() > 0 ? options.max_elements()
                                                : std::numeric_limits<std::int64_t>::max();
  OrderFingerprint fingerprint("length buckets");
  fingerprint.add(options.shuffle() ? 1 : 0)
      .add(options_.batch_size())
      .add(options.pool_batches())
      .add(static_cast<std::uint64_t>(options.max_elements()));
  for (std::size_t i = 0; i < lengths_->size(); ++i) {
    const auto length = (*lengths_)[i];
    TORCH_CHECK(length >= 0 && length <= limit, kLengthBuckets, ": lengths[", i, "] is ", length,
                "; it must be from 0 to ", limit);
    fingerprint.add(static_cast<std::uint64_t>(length));
  }
  fingerprint_ = fingerprint.value();
  make_plan();
}

void LengthBucketSampler::set_epoch(std::int64_t epoch) {
  TORCH_CHECK(epoch >= 0, kLengthBuckets, ": epoch is ", epoch, "; it must not be negative");
  if (epoch == epoch_) return;
  epoch_ = epoch;
  share_.start_at(0, 0);
  make_plan();
}

void LengthBucketSampler::make_plan() {
  plan_ = std::make_shared<const detail::BucketPlan>(lengths_, options_, epoch_);
}

std::size_t LengthBucketSampler::size() const {
  return share_.size(plan_->size());
}

std::vector<std::int64_t> LengthBucketSampler::batch(std::size_t number) const {
  TORCH_CHECK(number < size(), kLengthBuckets, ": batch ", number, " is not below the size ",
              size());
  const auto samples = plan_->batch(share_.place(number, plan_->size()));
  return {samples.begin(), samples.end()};
}

std::vector<std::vector<std::int64_t>> LengthBucketSampler::batches() const {
  std::vector<std::vector<std::int64_t>> all(size());
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = batch(i);
  return all;
}

void LengthBucketSampler::start_at(std::uint64_t global_position) {
  share_.start_at(global_position, plan_->size());
}

std::uint64_t LengthBucketSampler::global_position(std::size_t local_batches) const {
  return share_.consumed(local_batches, plan_->size());
}

}  // namespace lockstep::data
