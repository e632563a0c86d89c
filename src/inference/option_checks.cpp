// SPDX-License-Identifier: BSD-3-Clause
#include "inference/option_checks.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <chrono>
#include <set>
#include <string>

#include "inference/slot_areas.h"

namespace lockstep::inference::detail {
namespace {

constexpr std::int64_t kMostThreads = 4096;
constexpr std::int64_t kMostBatch = 65536;
constexpr std::int64_t kMostMappings = 50'000;
constexpr std::chrono::hours kLongest{24 * 365};

void check_members(const std::vector<Member>& members) {
  TORCH_CHECK(!members.empty(), "Ensemble: it has no members; it needs at least one");
  std::set<std::string> names;
  std::int64_t copies = 0;
  for (const auto& member : members) {
    const auto& name = member.name();
    TORCH_CHECK(!name.empty(), "Ensemble: a member has no name");
    TORCH_CHECK(names.insert(name).second, "Ensemble: two members have the name ", name);
    TORCH_CHECK(member.make() != nullptr, "Ensemble: member ", name, " has no factory");
    TORCH_CHECK(member.copies() >= 1, "Ensemble: member ", name, " has ", member.copies(),
                " copies; it must have at least 1");
    TORCH_CHECK(member.threads() >= 1 && member.threads() <= kMostThreads, "Ensemble: member ",
                name, " has ", member.threads(), " threads; it must have 1 to ", kMostThreads);
    copies += member.copies();
    TORCH_CHECK(copies <= Member::kMostCopies, "Ensemble: the members have more than ",
                Member::kMostCopies, " copies together");
  }
}

void check_times(const EnsembleOptions& options) {
  const auto check = [](std::chrono::milliseconds time, std::int64_t least, const char* name) {
    TORCH_CHECK(time.count() >= least, "EnsembleOptions: ", name, " is ", time.count(),
                " ms; it must be at least ", least, " ms");
  };
  check(options.deadline(), 1, "deadline");
  check(options.member_timeout(), 1, "member_timeout");
  check(options.start_timeout(), 1, "start_timeout");
  check(options.restart_pause(), 0, "restart_pause");
  check(options.longest_restart_pause(), 0, "longest_restart_pause");
  TORCH_CHECK(options.max_delay().count() >= 0, "EnsembleOptions: max_delay is ",
              options.max_delay().count(), " us; it must not be negative");
  TORCH_CHECK(options.max_delay() <= kLongest && options.restart_pause() <= kLongest &&
                  options.longest_restart_pause() <= kLongest,
              "EnsembleOptions: max_delay, restart_pause or longest_restart_pause is more than a "
              "year");
}

}  // namespace

std::int64_t most_requests(std::size_t members) {
  return std::min(EnsembleOptions::kMostRequests,
                  kMostMappings / (static_cast<std::int64_t>(members) + 1));
}

void check_members_and_options(const std::vector<Member>& members, const EnsembleOptions& options) {
  check_members(members);
  const auto count = static_cast<std::int64_t>(members.size());
  TORCH_CHECK(options.quorum() >= 0 && options.quorum() <= count, "EnsembleOptions: quorum is ",
              options.quorum(), "; it must be from 1 to the number of members, ", count,
              ", or 0 for all");
  TORCH_CHECK(options.max_batch() >= 1 && options.max_batch() <= kMostBatch,
              "EnsembleOptions: max_batch is ", options.max_batch(), "; it must be from 1 to ",
              kMostBatch);
  TORCH_CHECK(options.queue() >= 1 && options.queue() <= most_requests(members.size()),
              "EnsembleOptions: queue is ", options.queue(), "; with ", count,
              " members it must be from 1 to ", most_requests(members.size()));
  const auto wanted = options.combine().members();
  TORCH_CHECK(wanted == 0 || wanted == members.size(), "EnsembleOptions: combine has weights for ",
              wanted, " members, and the ensemble has ", count);
  TORCH_CHECK(options.kind() != WorkerKind::Spawn,
              "EnsembleOptions: kind is Spawn, but a fresh run of the program does not know the "
              "factories; choose Process or Thread");
  check_times(options);
  if (options.sample().defined()) static_cast<void>(form_of(options.sample()));
}

}  // namespace lockstep::inference::detail
