// SPDX-License-Identifier: BSD-3-Clause
#include "comm/group/split.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <lockstep/core/error.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <string>
#include <utility>

#include "comm/collective/collective.h"
#include "comm/collective/fingerprint.h"
#include "comm/group/argument_checks.h"
#include "comm/group/host_layout.h"
#include "comm/single/backend.h"

namespace lockstep {
namespace {

/// What a rank tells the others about itself and its call of `split` or `new_group`.
struct Place {
  std::int64_t color;
  std::int64_t key;
  std::int64_t host;
  std::int64_t call;
  std::int64_t occasion;  ///< another one in every call of every process
};
constexpr std::int64_t kNumbers = 5;

/// Groups outlive those they were made of, so that the numbers of divisions alone could repeat.
std::int64_t next_occasion() {
  static std::atomic<std::int64_t> count{0};
  return (static_cast<std::int64_t>(::getpid()) << 32) + ++count;
}

std::vector<Place> gather_places(GroupCore& group, const Place& own) {
  const auto input = at::tensor({own.color, own.key, own.host, own.call, own.occasion}, at::kLong);
  const auto output = at::empty({group.size(), kNumbers}, at::kLong);
  const auto call = group.start({.op = CollectiveOp::AllGather,
                                 .inputs = {input},
                                 .outputs = split_evenly(output, group.size())},
                                output);
  call.group->wait_for(call.sequence, std::nullopt);
  std::vector<Place> places;
  const auto* numbers = output.const_data_ptr<std::int64_t>();
  for (int rank = 0; rank < group.size(); ++rank, numbers += kNumbers) {
    places.push_back({numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]});
  }
  return places;
}

std::vector<int> members_of(const std::vector<Place>& places, std::int64_t color) {
  std::vector<int> members;
  for (std::size_t rank = 0; rank < places.size(); ++rank) {
    if (places[rank].color == color) members.push_back(static_cast<int>(rank));
  }
  std::stable_sort(members.begin(), members.end(), [&](int a, int b) {
    return places[static_cast<std::size_t>(a)].key < places[static_cast<std::size_t>(b)].key;
  });
  return members;
}

void check_same_call(const std::vector<Place>& places, const CommContext& context) {
  for (std::size_t rank = 1; rank < places.size(); ++rank) {
    if (places[rank].call == places[0].call) continue;
    throw MismatchError(context,
                        "rank " + std::to_string(rank) +
                            " called another division, or with other ranks, than rank 0",
                        "all ranks must make the same calls in the same order, with the same list");
  }
}

}  // namespace

Division division_of(const std::vector<int>& ranks, int rank, int size) {
  TORCH_CHECK(!ranks.empty(), "new_group: the list of ranks is empty");
  std::uint64_t hash = 1;
  for (const int member : ranks) {
    TORCH_CHECK(member >= 0 && member < size, "new_group: rank ", member,
                " is in the list; this group has ranks 0 to ", size - 1);
    hash = mix(hash, static_cast<std::uint64_t>(member) + 1);
  }
  TORCH_CHECK(std::set<int>(ranks.begin(), ranks.end()).size() == ranks.size(),
              "new_group: the list ", c10::ArrayRef<int>(ranks), " repeats a rank");
  const auto own = std::find(ranks.begin(), ranks.end(), rank);
  const auto key = static_cast<int>(own - ranks.begin());
  return {own == ranks.end() ? -1 : 0, key, static_cast<std::int64_t>(hash), "new_group"};
}

std::shared_ptr<GroupCore> divide_group(GroupCore& group, const Division& division) {
  // Where all are on one host, its name does not matter.
  const bool is_one_host = group.environment().local_size == group.size();
  const std::int64_t host = is_one_host ? 0 : host_number(group.environment());
  const auto places =
      gather_places(group, {division.color, division.key, host, division.call, next_occasion()});
  check_same_call(places, group.context_for(division.op));
  CommBackend& backend = group.backend();
  if (division.color < 0) {
    backend.split_without_color();
    return nullptr;
  }
  const auto members = members_of(places, division.color);
  LaunchEnvironment environment = group.environment();
  const auto first = static_cast<std::size_t>(members.front());
  environment.job_id += " / " + std::to_string(places[first].occasion);
  environment.assumption.clear();  // these ranks have found each other
  environment.world_size = static_cast<int>(members.size());
  environment.local_rank = environment.local_size = 0;
  for (std::size_t i = 0; i < members.size(); ++i) {
    const bool is_own = members[i] == group.rank();
    if (is_own) {
      environment.rank = static_cast<int>(i);
      environment.local_rank = environment.local_size;
    }
    if (places[static_cast<std::size_t>(members[i])].host == host) ++environment.local_size;
  }
  if (members.size() == 1) {
    backend.split_without_color();
    return GroupCore::make(Backend::Single, std::move(environment), group.timeout(),
                           make_single_backend);
  }
  return GroupCore::make(group.kind(), std::move(environment), group.timeout(),
                         [&](GroupContext& part) { return backend.make_group(part, members); });
}

}  // namespace lockstep
