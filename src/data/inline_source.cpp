// SPDX-License-Identifier: BSD-3-Clause
#include "data/inline_source.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <lockstep/data/worker_error.h>
#include <unistd.h>

#include <utility>

#include "data/batch_builder.h"
#include "data/value_tensors.h"
#include "data/worker_failure.h"

namespace lockstep::data::detail {

void InlineSource::start(PassPlan plan) {
  plan_ = std::move(plan);
  next_ = 0;
  pass_start_ = Clock::now();
  if (!source_.open) return;
  round_.start(facts_.shards);
  streams_.clear();
  streams_.resize(facts_.shards);
  ahead_.clear();
  error_ahead_ = nullptr;
}

bool InlineSource::has_next() {
  if (!source_.open) return next_ < plan_.batches;
  const auto start = Clock::now();
  look_ahead();
  count_work(start);
  return !ahead_.empty() || error_ahead_ != nullptr;
}

Value InlineSource::next() {
  const at::NoGradGuard no_grad;
  const auto start = Clock::now();
  std::size_t row = 0;
  Value batch;
  if (source_.open) {
    look_ahead();
    ++next_;
    const auto samples = ahead_.size();
    try {
      if (error_ahead_) std::rethrow_exception(std::exchange(error_ahead_, nullptr));
      const SampleGenerator::Use draws(generator_);
      SampleGenerator::begin_stream_batch(seed_, plan_.epoch, facts_.shard(turn_.shard),
                                          turn_.batch);
      batch = collate(source_, std::exchange(ahead_, {}));
    } catch (...) {
      ++statistics_.lost_batches;
      throw_error(next_ - 1, std::nullopt);
    }
    ++statistics_.batches;
    statistics_.samples += samples;
  } else {
    items_.clear();
    plan_.items(next_, items_);
    ++next_;
    try {
      const SampleGenerator::Use draws(generator_);
      batch = source_.has_rows ? build_rows(row) : build_whole(row);
    } catch (...) {
      ++statistics_.lost_batches;
      throw_error(next_ - 1, items_[std::min(row, items_.size() - 1)]);
    }
    ++statistics_.batches;
    statistics_.samples += items_.size();
  }
  if (pins_) batch = clone_into_pinned_memory(batch);
  count_work(start);
  statistics_.seconds += std::chrono::duration<double>(Clock::now() - pass_start_).count();
  pass_start_ = Clock::now();
  return batch;
}

void InlineSource::count_work(Clock::time_point since) {
  statistics_.stall_seconds += std::chrono::duration<double>(Clock::now() - since).count();
  statistics_.busy_seconds = statistics_.compute_seconds = statistics_.stall_seconds;
}

Value InlineSource::build_rows(std::size_t& row) {
  std::optional<Value> first;
  if (!layout_) {
    first = fetch(source_, seed_, plan_.epoch, items_[0]);
    layout_ = ValueLayout::of_rows(*first, facts_.largest_batch, layout_bytes_);
  }
  const auto memory = at::empty({static_cast<std::int64_t>(layout_bytes_)}, at::kByte);
  auto* place = static_cast<std::byte*>(memory.mutable_data_ptr());
  if (first) write_row(*first, *layout_, place, row++);
  for (; row < items_.size(); ++row) {
    fetch_row(source_, seed_, plan_.epoch, items_[row], *layout_, place, row);
  }
  return read_rows(*layout_, place, items_.size(),
                   [&](std::byte* data, at::IntArrayRef sizes, at::ScalarType dtype) {
                     return at::from_blob(
                         data, sizes, [memory](void*) {}, at::TensorOptions(dtype));
                   });
}

Value InlineSource::build_whole(std::size_t& row) {
  std::vector<Value> samples;
  samples.reserve(items_.size());
  std::int64_t first = 0;
  for (; row < items_.size(); ++row) {
    if (samples.empty()) first = items_[row];
    samples.push_back(fetch(source_, seed_, plan_.epoch, items_[row]));
  }
  row = 0;  // what goes wrong now is nobody's sample; the first stands for all
  SampleGenerator::begin_batch(seed_, plan_.epoch, first);
  return collate(source_, std::move(samples));
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
    if (ahead_.size() == facts_.batch_size) continue;
    round_.end(turn.shard, turn.batch);
    if (facts_.drop_last) ahead_.clear();
  }
}

std::vector<Value> InlineSource::read_stream(const ShardRound::Turn& turn) {
  const at::NoGradGuard no_grad;
  const SampleGenerator::Use draws(generator_);
  const auto shard = facts_.shard(turn.shard);
  auto& stream = streams_[turn.shard];
  if (!stream) {
    SampleGenerator::begin_reset(seed_, plan_.epoch, shard);
    stream = source_.open();
    stream->reset(shard, facts_.all_shards, plan_.epoch);
  }
  std::vector<Value> samples;
  while (samples.size() < facts_.batch_size) {
    SampleGenerator::begin_next(seed_, plan_.epoch, shard,
                                turn.batch * facts_.batch_size + samples.size());
    auto sample = stream->next();
    if (!sample) break;
    samples.push_back(std::move(*sample));
  }
  return samples;
}

void InlineSource::throw_error(std::size_t batch, std::optional<std::int64_t> sample) {
  WorkerError::Context context;
  context.pid = ::getpid();
  context.batch = static_cast<std::int64_t>(batch);
  context.sample = sample;
  context.exception_type = current_exception_type();
  context.message = current_exception_message();
  name_sample(context, source_);
  throw WorkerError(std::move(context));
}

LoaderStatistics InlineSource::statistics() const {
  return statistics_;
}

}  // namespace lockstep::data::detail
