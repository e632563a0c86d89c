// SPDX-License-Identifier: BSD-3-Clause
#include "inference/tuner.h"

#include <c10/util/Exception.h>
#include <lockstep/inference/answer.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <utility>

#include "inference/ensemble_core.h"
#include "inference/option_checks.h"
#include "inference/slot_areas.h"
#include "native/posix/usable_cores.h"

namespace lockstep::inference::detail {
namespace {

// Of calls that count; those before, with pages and caches that are cold, do not.
constexpr int kFirstCalls = 2;

void check_tune_options(const TuneOptions& options) {
  TORCH_CHECK(options.cores() >= 0, "TuneOptions: cores is ", options.cores(),
              "; it must not be negative");
  TORCH_CHECK(!options.batches().empty(), "TuneOptions: batches is empty");
  for (const auto batch : options.batches()) {
    TORCH_CHECK(batch >= 1 && batch <= EnsembleOptions::kMostRequests, "TuneOptions: batches has ",
                batch, "; each must be from 1 to ", EnsembleOptions::kMostRequests);
  }
  TORCH_CHECK(options.duration().count() > 0, "TuneOptions: duration is ",
              options.duration().count(), " ms; it must be at least 1 ms");
}

// Twice as many as fit at once.
std::int64_t under_way_of(const TuneTrial& trial) {
  return 2 * trial.copies * trial.max_batch;
}

// Those that an ensemble of so many members can have.
std::vector<TuneTrial> settings(const TuneOptions& options, std::size_t members) {
  const auto most_copies = Member::kMostCopies / static_cast<std::int64_t>(members);
  const auto cores =
      options.cores() > 0 ? options.cores() : static_cast<std::int64_t>(native::usable_cores());
  std::vector<TuneTrial> all;
  for (std::int64_t threads = 1; threads <= cores; threads *= 2) {
    for (std::int64_t copies = 1; copies * threads <= cores && copies <= most_copies; copies *= 2) {
      for (const auto batch : options.batches()) {
        TuneTrial trial;
        trial.copies = copies;
        trial.threads = threads;
        trial.max_batch = batch;
        if (under_way_of(trial) <= most_requests(members)) all.push_back(trial);
      }
    }
  }
  TORCH_CHECK(!all.empty(), "TuneOptions: batches has no number for which an ensemble of ", members,
              " members has room; half of EnsembleOptions::queue's limit, ", most_requests(members),
              ", is the most");
  return all;
}

void measure(TuneTrial& trial, std::vector<Member> members, EnsembleOptions options,
             const at::Tensor& sample, std::chrono::milliseconds duration) {
  for (auto& member : members) member.copies(trial.copies).threads(trial.threads);
  const auto under_way = static_cast<std::size_t>(under_way_of(trial));
  options.quorum(0).max_batch(trial.max_batch).sample(sample);
  options.when_full(WhenFull::Wait).queue(static_cast<std::int64_t>(under_way));
  check_members_and_options(members, options);
  const auto core = std::make_shared<EnsembleCore>(std::move(members), std::move(options));
  std::deque<PendingAnswer> pending;
  for (int call = 0; call < kFirstCalls; ++call) {
    static_cast<void>(PendingAnswer(core->submit(sample)).get());
  }
  LatencyHistogram latency{};
  std::deque<std::uint64_t> begun;
  const auto begin = now_ns();
  const auto end = begin + static_cast<std::uint64_t>(std::chrono::nanoseconds(duration).count());
  std::uint64_t answered = 0;
  auto now = begin;
  while (now < end || answered == 0) {
    while (pending.size() < under_way) {
      begun.push_back(now_ns());
      pending.emplace_back(core->submit(sample));
    }
    static_cast<void>(pending.front().get());
    now = now_ns();
    latency.add(now - begun.front());
    ++answered;
    pending.pop_front();
    begun.pop_front();
  }
  pending.clear();
  core->close();
  trial.requests_per_second =
      static_cast<double>(answered) * 1e9 / static_cast<double>(now - begin);
  trial.p50 = std::chrono::nanoseconds(latency.quantile(0.5));
  trial.p99 = std::chrono::nanoseconds(latency.quantile(0.99));
}

}  // namespace

TuneTrial best_of(const std::vector<TuneTrial>& trials, std::chrono::nanoseconds longest_p99) {
  const auto is_within = [&](const TuneTrial& trial) {
    return longest_p99.count() == 0 || trial.p99 <= longest_p99;
  };
  const auto is_worse = [&](const TuneTrial& a, const TuneTrial& b) {
    if (is_within(a) != is_within(b)) return is_within(b);
    return is_within(a) ? a.requests_per_second < b.requests_per_second : a.p99 > b.p99;
  };
  return *std::max_element(trials.begin(), trials.end(), is_worse);
}

TuneReport tune(const std::vector<Member>& members, const EnsembleOptions& ensemble,
                const at::Tensor& sample, const TuneOptions& options) {
  check_tune_options(options);
  static_cast<void>(form_of(sample));
  TuneReport report;
  report.trials = settings(options, members.size());
  for (auto& trial : report.trials) measure(trial, members, ensemble, sample, options.duration());
  report.best = best_of(report.trials, options.longest_p99());
  return report;
}

}  // namespace lockstep::inference::detail
