// SPDX-License-Identifier: BSD-3-Clause
// The collectives with one process a rank, on every backend that this world can have.
#include <gtest/gtest.h>
#include <lockstep/comm/mesh.h>
#include <lockstep/lockstep.h>
#include <sys/resource.h>

#include <cstdlib>

#ifdef LOCKSTEP_TEST_MPI
#include "comm/bootstrap/link_choice.h"
#include "comm/hierarchical/make_process_group.h"
#include "comm/hierarchical/tcp_reduction.h"
#include "comm/mpi/make_process_group.h"
#include "comm/tcp/backend.h"
#endif
#include "support/collective_conformance.h"
#include "support/random_conformance.h"

namespace lockstep::testing {
namespace {

/// A grid of these processes, with two rows where that is possible.
void check_mesh(ProcessGroup& group) {
  const int columns = group.size() % 2 == 0 ? group.size() / 2 : group.size();
  Mesh mesh(group, {{"row", group.size() / columns}, {"column", columns}});
  const int row = group.rank() / columns;
  EXPECT_EQ(mesh.index("row"), row);
  EXPECT_EQ(mesh.index("column"), group.rank() % columns);
  const auto sum = torch::full({1}, group.rank(), torch::kLong);
  mesh.group("column")->all_reduce(sum).wait();
  EXPECT_EQ(sum.item<int>(), columns * row * columns + columns * (columns - 1) / 2);
  mesh.close();
}

class Collectives : public ::testing::TestWithParam<Backend> {};

TEST_P(Collectives, MatchSumsMadeByHandInRankOrder) {
  const int ranks = LaunchEnvironment::detect().world_size;
  if (GetParam() == Backend::Single && ranks > 1) return;
#ifndef LOCKSTEP_TEST_MPI
  if (GetParam() == Backend::Mpi || GetParam() == Backend::Hierarchical) {
    GTEST_SKIP() << "built without MPI";
  }
#endif
#ifndef LOCKSTEP_TEST_GLOO
  if (GetParam() == Backend::Gloo) GTEST_SKIP() << "built without gloo";
#endif
  const auto group = init_process_group(
      ProcessGroupOptions().backend(GetParam()).timeout(std::chrono::minutes(1)));
  ASSERT_EQ(group->size(), ranks);
  EXPECT_EQ(group->backend(), GetParam());
  check_everything(*group);
  check_random_calls(*group, 120);
  check_long_tensors(*group);
  check_mesh(*group);
  group->close();
  group->close();  // once is enough, twice is allowed
  EXPECT_THROW(group->barrier(), c10::Error);
}

INSTANTIATE_TEST_SUITE_P(Backends, Collectives,
                         ::testing::Values(Backend::SharedMemory, Backend::Mpi,
                                           Backend::Hierarchical, Backend::Gloo, Backend::Single),
                         [](const auto& test) { return std::string(to_string(test.param)); });

#if defined(LOCKSTEP_TEST_MPI) || defined(LOCKSTEP_TEST_GLOO)
/// What the launcher said, with these hosts instead of this one.
LaunchEnvironment environment_with_hosts(const std::string& hosts) {
  return LaunchEnvironment::detect([&](const std::string& name) -> std::optional<std::string> {
    if (name == "LOCKSTEP_FAKE_HOSTS") return hosts;
    const char* value = std::getenv(name.c_str());
    return value == nullptr ? std::nullopt : std::optional<std::string>(value);
  });
}

/// Hosts of one rank, of several, of different numbers of ranks, and with ranks out of order.
/// hierarchical_tests has more layouts, with ranks that are threads.
std::vector<std::string> layouts_of(int ranks) {
  switch (ranks) {
    case 2:
      return {"a,b"};
    case 3:
      return {"a,b,a"};
    case 4:
      return {"a,a,b,b", "c,b,a,a"};
    default:
      return {"a"};
  }
}

TEST(Collectives, MatchOverSeveralHosts) {
  for (const auto& hosts : layouts_of(LaunchEnvironment::detect().world_size)) {
    SCOPED_TRACE(hosts);
    const auto environment = environment_with_hosts(hosts);
    const auto group = init_process_group(ProcessGroupOptions()
                                              .backend(Backend::Hierarchical)
                                              .timeout(std::chrono::minutes(1))
                                              .environment(environment));
    EXPECT_EQ(group->local_rank(), environment.local_rank);
    EXPECT_EQ(group->local_size(), environment.local_size);
    check_all_reduce(*group);
    check_reduce(*group);
    check_broadcast(*group);
    check_all_gather(*group);
    check_reduce_scatter(*group);
    check_registered_memory(*group);
    check_groups(*group);
    check_random_calls(*group, 100);
    check_long_tensors(*group);
    group->close();
  }
}
#endif

#ifdef LOCKSTEP_TEST_MPI
// No fabric of a test is so fast that MPI takes over by itself.
TEST(Collectives, MatchWhereMpiTakesOverFromTcp) {
  const int ranks = LaunchEnvironment::detect().world_size;
  if (ranks == 1) return;
  const auto make_tcp = [](GroupContext& all) {
    return std::make_unique<TcpBackend>(all, make_mpi_backend(all));
  };
  // One layout: what is behind the link is the business of MatchOverSeveralHosts.
  const auto hosts = layouts_of(ranks).back();
  int comparisons = 0;
  const auto choose = [&](GroupContext& all, HostLink& link, const HostLayout& layout) {
    return choose_link_beside_tcp(all, link, layout, true, [&](const LinkSpeed&, const LinkSpeed&) {
      ++comparisons;
      return true;
    });
  };
  const auto group =
      make_hierarchical_process_group(environment_with_hosts(hosts), std::chrono::minutes(1),
                                      make_tcp, make_tcp_host_reduction, choose);
  EXPECT_EQ(group->describe_link().find("MPI ("), 0U) << group->describe_link();
  EXPECT_EQ(comparisons, 3);
  check_everything(*group);
  check_long_tensors(*group);
  group->close();
}
#endif

TEST(Collectives, SameBitsOnEveryBackend) {
#ifndef LOCKSTEP_TEST_MPI
  GTEST_SKIP() << "built without MPI";
#endif
  std::vector<torch::Tensor> results;
  for (const auto backend : {Backend::SharedMemory, Backend::Mpi, Backend::Hierarchical}) {
    const auto group =
        init_process_group(ProcessGroupOptions().backend(backend).timeout(std::chrono::minutes(1)));
    const auto tensor = values_of_rank(group->rank(), 100003, at::kFloat);
    group->all_reduce(tensor, ReduceOp::Avg).wait();
    results.push_back(tensor);
    group->close();
  }
  EXPECT_TRUE(torch::equal(results[0], results[1]));
  EXPECT_TRUE(torch::equal(results[0], results[2]));
}

#ifndef __SANITIZE_ADDRESS__
TEST(Collectives, GroupMemoryThatOneRankCannotMapIsAnErrorOnAllAndTheGroupGoesOn) {
  if (LaunchEnvironment::detect().world_size == 1) return;
  const auto group = init_process_group(
      ProcessGroupOptions().backend(Backend::SharedMemory).timeout(std::chrono::minutes(1)));
  rlimit before{};
  ::getrlimit(RLIMIT_AS, &before);
  if (group->rank() == 1) {
    const rlimit tight{.rlim_cur = 1 << 20, .rlim_max = before.rlim_max};
    ::setrlimit(RLIMIT_AS, &tight);
  }
  EXPECT_THROW(static_cast<void>(group->allocate({64 << 20}, torch::kByte)), CommError);
  ::setrlimit(RLIMIT_AS, &before);
  const auto tensor = group->allocate({3}, torch::kFloat);
  tensor.fill_(1);
  group->all_reduce(tensor).wait();
  EXPECT_EQ(tensor[2].item<float>(), static_cast<float>(group->size()));
  group->close();
}
#endif

TEST(Collectives, MismatchIsAnErrorOnEveryRank) {
  if (LaunchEnvironment::detect().world_size == 1) return;
  for (const auto backend : {Backend::SharedMemory, Backend::Mpi, Backend::Hierarchical}) {
#ifndef LOCKSTEP_TEST_MPI
    if (backend != Backend::SharedMemory) continue;
#endif
    const auto group =
        init_process_group(ProcessGroupOptions().backend(backend).timeout(std::chrono::minutes(1)));
    const auto tensor = torch::ones({group->rank() == 1 ? 7 : 8});
    try {
      group->all_reduce(tensor).wait();
      ADD_FAILURE() << "no error";
    } catch (const MismatchError& error) {
      EXPECT_NE(std::string(error.what()).find("rank 1 called all_reduce (Sum) of 7 x Float"),
                std::string::npos)
          << error.what();
    }
    EXPECT_TRUE(torch::equal(tensor, torch::ones_like(tensor))) << "the tensor was touched";
  }
}

TEST(Collectives, PiecesOfDifferentSizesAreAnErrorOnEveryRank) {
  if (LaunchEnvironment::detect().world_size == 1) return;
  const auto group = init_process_group(
      ProcessGroupOptions().backend(Backend::SharedMemory).timeout(std::chrono::minutes(1)));
  const auto memory = group->allocate({100}, torch::kFloat).fill_(1);
  const auto places = group->allocate({2}, torch::kLong);
  places[1] = 50;
  const std::vector<std::int64_t> counts{group->rank() == 1 ? 9 : 10, group->rank() == 1 ? 21 : 20};
  EXPECT_THROW(group->all_reduce({memory, places, counts}).wait(), MismatchError);
  EXPECT_TRUE(torch::all(memory == 1).item<bool>()) << "the memory was touched";
}

}  // namespace
}  // namespace lockstep::testing
