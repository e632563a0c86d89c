// SPDX-License-Identifier: BSD-3-Clause
#include "data/loader/inline_source.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <lockstep/data/loader/worker_error.h>

#include <utility>

#include "data/loader/batch_builder.h"
#include "data/loader/worker_failure.h"
#include "data/samples/tree_tensors.h"

namespace lockstep::data::detail {
namespace {

// For samples that are under way when the loader goes.
constexpr std::chrono::milliseconds kInlinePatience{1000};

}  // namespace

InlineSource::InlineSource(SampleSource source, const BatchFacts& facts, std::uint64_t seed)
    : source_(std::move(source)), facts_(facts), seed_(seed) {
  if (facts_.in_flight != 0) {
    pending_ = std::make_unique<PendingSamples>(source_, facts_.in_flight, facts_.timeout,
                                                kInlinePatience, counts_);
    source_ = pending_->source();
    const auto tell = [this](std::size_t most, const UseUpcoming& use) {
      upcoming_.tell(row_, 0, most, use);
    };
    pending_->use(tell, nullptr);
  } else if (facts_.read_ahead != 0) {
    read_ahead_.emplace(source_, facts_.read_ahead, counts_);
  }
}

/// The places of the batch that is being built (`BatchPlaces`).
class InlineSource::Places {
 public:
  explicit Places(InlineSource& source) : source_(source) {}

  [[nodiscard]] std::size_t size() const { return source_.items_.size(); }
  [[nodiscard]] std::int64_t word(std::size_t place) const { return source_.items_[place]; }
  [[nodiscard]] std::int64_t behind(std::size_t number) {
    if (!behind_) behind_ = items_behind(source_.plan_, source_.next_);
    return (*behind_)[number];
  }
  void begin(std::size_t) {}
  void note(std::size_t, std::int64_t index) {
    if (source_.missing_.is_due()) source_.warn_of_missing(missing_sample(index));
  }
  void leave_out(std::size_t place) { source_.items_[place] = workers::kLeftOut; }
  void replace(std::size_t place, std::int64_t index) {
    source_.items_[place] = index;
    ++source_.replaced_;
  }

 private:
  InlineSource& source_;
  std::optional<ItemsBehind> behind_;
};

void InlineSource::start(PassPlan plan) {
  plan_ = std::move(plan);
  built_.reset();
  next_ = 0;
  pass_start_ = Clock::now();
  upcoming_.start(plan_);
  if (pending_) pending_->forget_all();
  if (!source_.open) return;
  round_.start(facts_.shards);
  streams_.clear();
  streams_.resize(facts_.shards);
  ahead_.clear();
  skipped_ahead_ = 0;
  error_ahead_ = nullptr;
}

bool InlineSource::has_next() {
  const bool may_be_over = source_.open != nullptr || facts_.on_failed_sample == SamplePolicy::Skip;
  if (!may_be_over) return next_ < plan_.batches;
  const auto start = Clock::now();
  bool has_any = true;
  if (source_.open) {
    look_ahead();
    has_any = !ahead_.empty() || error_ahead_ != nullptr;
  } else {
    try {
      build();
      has_any = built_.has_value();
    } catch (...) {  // the sampler's, which says it again at its turn
    }
  }
  count_work(start);
  return has_any;
}

SampleTree InlineSource::next() {
  const at::NoGradGuard no_grad;
  const auto start = Clock::now();
  Built built = source_.open ? take_stream() : take_built();
  if (pins_) built.batch = pinned(built.batch);
  ++statistics_.batches;
  statistics_.samples += built.samples;
  count_missing(built);
  count_work(start);
  statistics_.seconds += std::chrono::duration<double>(Clock::now() - pass_start_).count();
  pass_start_ = Clock::now();
  return std::move(built.batch);
}

InlineSource::Built InlineSource::take_stream() {
  look_ahead();
  ++next_;
  Built built;
  built.samples = ahead_.size();
  built.skipped = std::exchange(skipped_ahead_, 0);
  std::size_t at = 0;
  try {
    if (error_ahead_) std::rethrow_exception(std::exchange(error_ahead_, nullptr));
    const SampleGenerator::Use draws(generator_);
    SampleGenerator::begin_stream_batch(seed_, plan_.epoch, facts_.shard(turn_.shard), turn_.batch);
    built.batch = collate(source_, std::exchange(ahead_, {}), at);
  } catch (...) {
    lose();
  }
  return built;
}

InlineSource::Built InlineSource::take_built() {
  build();
  auto built = *std::exchange(built_, std::nullopt);
  ++next_;
  if (built.error) {
    ++statistics_.lost_batches;
    std::rethrow_exception(built.error);
  }
  return built;
}

SampleTree InlineSource::pinned(const SampleTree& batch) {
  try {
    return clone_into_pinned_memory(batch);
  } catch (...) {
    lose();
  }
}

// The next batch of which something is left, unless there is none.
void InlineSource::build() {
  while (!built_ && next_ < plan_.batches) {
    auto built = build_next();
    if (built.samples != 0 || built.error) {
      built_ = std::move(built);
    } else {
      count_missing(built);
      ++next_;
    }
  }
}

// The indices of the batch that comes next.
void InlineSource::take_items() {
  items_.clear();
  if (!pending_ && !read_ahead_) return plan_.items(next_, items_);
  upcoming_.take(next_, items_);
  if (pending_) pending_->forget_before(place_word(next_, 0));
}

// Before a sample is fetched.
void InlineSource::begin_row(std::size_t row) {
  row_ = row;
  if (!read_ahead_ || !read_ahead_->is_due()) return;
  read_ahead_->look(place_word(next_, row + 1),
                    [&](std::size_t skip, std::size_t most, const UseUpcoming& use) {
                      upcoming_.tell(row + 1, skip, most, use);
                    });
}

InlineSource::Built InlineSource::build_next() {
  const at::NoGradGuard no_grad;
  replaced_ = 0;
  take_items();
  Built built;
  std::size_t row = 0;
  try {
    const SampleGenerator::Use draws(generator_);
    built.batch =
        source_.has_rows ? build_rows(row, built.samples) : build_whole(row, built.samples);
    built.skipped = items_.size() - built.samples;
    built.replaced = replaced_;
  } catch (...) {
    built.error = std::make_exception_ptr(
        error_of(next_, workers::item_of(items_[std::min(row, items_.size() - 1)])));
  }
  return built;
}

void InlineSource::count_missing(const Built& built) {
  statistics_.skipped_samples += built.skipped;
  statistics_.replaced_samples += built.replaced;
}

void InlineSource::count_work(Clock::time_point since) {
  statistics_.stall_seconds += std::chrono::duration<double>(Clock::now() - since).count();
  statistics_.busy_seconds = statistics_.compute_seconds = statistics_.stall_seconds;
}

SampleTree InlineSource::build_rows(std::size_t& row, std::size_t& rows) {
  Places places(*this);
  at::Tensor memory;
  std::byte* place = nullptr;
  const auto make_memory = [&] {
    memory = at::empty({static_cast<std::int64_t>(layout_bytes_)}, at::kByte);
    place = static_cast<std::byte*>(memory.mutable_data_ptr());
  };
  if (layout_) make_memory();
  for (; row < items_.size(); ++row) {
    begin_row(row);
    std::optional<SampleTree> sample;
    const auto fetch_one = [&](std::int64_t index) {
      sample = layout_ ? fetch_for_row(source_, seed_, plan_.epoch, index, *layout_, place, rows)
                       : fetch(source_, seed_, plan_.epoch, index);
    };
    if (!have_sample(facts_.on_failed_sample, places, row, fetch_one)) continue;
    if (!layout_) {
      layout_ = SampleLayout::of_rows(*sample, facts_.largest_batch, layout_bytes_);
      make_memory();
    }
    if (sample) write_row(*sample, *layout_, place, rows);
    ++rows;
  }
  if (rows == 0) return {};
  return read_rows(*layout_, place, rows,
                   [&](std::byte* data, at::IntArrayRef sizes, at::ScalarType dtype) {
                     return at::from_blob(
                         data, sizes, [memory](void*) {}, at::TensorOptions(dtype));
                   });
}

SampleTree InlineSource::build_whole(std::size_t& row, std::size_t& rows) {
  Places places(*this);
  std::vector<SampleTree> samples;
  samples.reserve(items_.size());
  std::int64_t first = 0;
  for (; row < items_.size(); ++row) {
    begin_row(row);
    const auto had = samples.size();
    static_cast<void>(have_sample(facts_.on_failed_sample, places, row, [&](std::int64_t index) {
      samples.push_back(fetch(source_, seed_, plan_.epoch, index));
    }));
    if (had == 0 && !samples.empty()) first = items_[row];
  }
  row = 0;
  rows = samples.size();
  if (rows == 0) return {};
  SampleGenerator::begin_batch(seed_, plan_.epoch, first);
  std::size_t number = 0;
  try {
    auto batch = collate(source_, std::move(samples), number);
    return batch;
  } catch (...) {  // of those that are there
    for (; row + 1 < items_.size(); ++row) {
      if (items_[row] != workers::kLeftOut && number-- == 0) break;
    }
    throw;
  }
}

void InlineSource::look_ahead() {
  while (ahead_.empty() && error_ahead_ == nullptr && !round_.is_over()) {
    const auto turn = turn_ = round_.take();
    try {
      ahead_ = read_stream(turn);
    } catch (...) {
      round_.end(turn.shard, turn.batch);
      error_ahead_ = std::current_exception();  // for its batch's turn
      return;
    }
    if (ahead_.size() != facts_.batch_size) {
      round_.end(turn.shard, turn.batch);
      if (facts_.drop_last) ahead_.clear();
    }
    try {
      if (missing_ahead_) warn_of_missing(*missing_ahead_);
    } catch (...) {  // the shard goes on with its next batch
      ahead_.clear();
      error_ahead_ = std::current_exception();
      return;
    }
    if (ahead_.empty()) statistics_.skipped_samples += std::exchange(skipped_ahead_, 0);
  }
}

std::vector<SampleTree> InlineSource::read_stream(const ShardRound::Turn& turn) {
  const at::NoGradGuard no_grad;
  const SampleGenerator::Use draws(generator_);
  const auto shard = facts_.shard(turn.shard);
  auto& stream = streams_[turn.shard];
  if (!stream) {
    SampleGenerator::begin_reset(seed_, plan_.epoch, shard);
    stream = source_.open();
    stream->reset(shard, facts_.all_shards, plan_.epoch);
  }
  std::vector<SampleTree> samples;
  skipped_ahead_ = 0;
  missing_ahead_.reset();
  while (samples.size() < facts_.batch_size) {
    auto sample = next_sample(
        *stream, facts_.on_failed_sample,
        [&] {
          SampleGenerator::begin_next(seed_, plan_.epoch, shard,
                                      turn.batch * facts_.batch_size + samples.size());
        },
        [&] {
          ++skipped_ahead_;
          if (missing_.is_due() && !missing_ahead_) missing_ahead_ = missing_sample(std::nullopt);
        });
    if (!sample) break;
    samples.push_back(std::move(*sample));
  }
  return samples;
}

// In a catch block only, as what follows.
MissingSample InlineSource::missing_sample(std::optional<std::int64_t> index) {
  return {index, current_exception_type(), current_exception_message()};
}

void InlineSource::lose() {
  ++statistics_.lost_batches;
  throw error_of(next_ - 1, std::nullopt);
}

WorkerError InlineSource::error_of(std::size_t batch, std::optional<std::int64_t> sample) {
  auto context = context_of_exception();
  context.batch = static_cast<std::int64_t>(batch);
  context.sample = sample;
  name_sample(context, source_);
  return WorkerError(std::move(context));
}

void InlineSource::warn_of_missing(const MissingSample& sample) {
  missing_.give(source_, facts_.on_failed_sample, sample);
}

LoaderStatistics InlineSource::statistics() const {
  auto result = statistics_;
  add_counts({&counts_, 1}, result);
  return result;
}

}  // namespace lockstep::data::detail
