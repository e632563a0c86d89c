// SPDX-License-Identifier: BSD-3-Clause
// Groups of some of a group's ranks.
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <lockstep/comm/process_group.h>

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <string>
#include <utility>

#include "comm/collective/fingerprint.h"
#include "comm/group/calling_thread.h"
#include "comm/group/host_layout.h"
#include "comm/single/process_group.h"

namespace lockstep {
namespace {

/// What a rank tells the others about itself and its call.
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

std::vector<Place> gather_places(ProcessGroup& group, const Place& own) {
  const auto input = at::tensor({own.color, own.key, own.host, own.call, own.occasion}, at::kLong);
  const auto output = at::empty({group.size(), kNumbers}, at::kLong);
  group.all_gather(output, input).wait();
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

std::shared_ptr<ProcessGroup> ProcessGroup::divide(int color, int key, std::int64_t call,
                                                   const char* op) {
  // Where all are on one host, its name does not matter.
  const std::int64_t host = local_size() == size() ? 0 : host_number(environment_);
  const auto places = gather_places(*this, {color, key, host, call, next_occasion()});
  check_same_call(places, context_for(op));
  if (color < 0) {
    decline_group();
    return nullptr;
  }
  const auto members = members_of(places, color);
  LaunchEnvironment environment = environment_;
  const auto first = static_cast<std::size_t>(members.front());
  environment.job_id += " / " + std::to_string(places[first].occasion);
  environment.assumption.clear();  // they have met
  environment.world_size = static_cast<int>(members.size());
  environment.local_rank = environment.local_size = 0;
  for (std::size_t i = 0; i < members.size(); ++i) {
    const bool is_own = members[i] == rank();
    if (is_own) {
      environment.rank = static_cast<int>(i);
      environment.local_rank = environment.local_size;
    }
    if (places[static_cast<std::size_t>(members[i])].host == host) ++environment.local_size;
  }
  if (members.size() == 1) {
    decline_group();
    return std::make_shared<SingleProcessGroup>(environment, timeout_);
  }
  return make_group(std::move(environment), members);
}

std::shared_ptr<ProcessGroup> ProcessGroup::split(int color, int key) {
  const auto visit = begin("split");
  return divide(color < 0 ? -1 : color, key, 0, "split");
}

std::shared_ptr<ProcessGroup> ProcessGroup::new_group(const std::vector<int>& ranks) {
  const auto visit = begin("new_group");
  TORCH_CHECK(!ranks.empty(), "new_group: the list of ranks is empty");
  std::uint64_t hash = 1;
  for (const int rank : ranks) {
    TORCH_CHECK(rank >= 0 && rank < size(), "new_group: rank ", rank,
                " is in the list; this group has ranks 0 to ", size() - 1);
    hash = mix(hash, static_cast<std::uint64_t>(rank) + 1);
  }
  TORCH_CHECK(std::set<int>(ranks.begin(), ranks.end()).size() == ranks.size(),
              "new_group: the list ", c10::ArrayRef<int>(ranks), " repeats a rank");
  const auto own = std::find(ranks.begin(), ranks.end(), rank());
  const auto key = static_cast<int>(own - ranks.begin());
  return divide(own == ranks.end() ? -1 : 0, key, static_cast<std::int64_t>(hash), "new_group");
}

}  // namespace lockstep
