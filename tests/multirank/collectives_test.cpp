// SPDX-License-Identifier: BSD-3-Clause
// The collectives with one process a rank, on every backend that this world can have.
#include <gtest/gtest.h>
#include <lockstep/lockstep.h>
#include <sys/resource.h>

#include "support/collective_conformance.h"

namespace lockstep::testing {
namespace {

class Collectives : public ::testing::TestWithParam<Backend> {};

TEST_P(Collectives, MatchSumsMadeByHandInRankOrder) {
  const int ranks = LaunchEnvironment::detect().world_size;
  if (GetParam() == Backend::Single && ranks > 1) return;
#ifndef LOCKSTEP_TEST_MPI
  if (GetParam() == Backend::Mpi) GTEST_SKIP() << "built without MPI";
#endif
  const auto group = init_process_group(
      ProcessGroupOptions().backend(GetParam()).timeout(std::chrono::seconds(30)));
  ASSERT_EQ(group->size(), ranks);
  EXPECT_EQ(group->backend(), GetParam());
  check_everything(*group);
  group->close();
  group->close();  // once is enough, twice is allowed
  EXPECT_THROW(group->barrier(), c10::Error);
}

INSTANTIATE_TEST_SUITE_P(Backends, Collectives,
                         ::testing::Values(Backend::SharedMemory, Backend::Mpi, Backend::Single),
                         [](const auto& test) { return std::string(to_string(test.param)); });

TEST(Collectives, SameBitsOnEveryBackend) {
#ifndef LOCKSTEP_TEST_MPI
  GTEST_SKIP() << "built without MPI";
#endif
  std::vector<torch::Tensor> results;
  for (const auto backend : {Backend::SharedMemory, Backend::Mpi}) {
    const auto group = init_process_group(
        ProcessGroupOptions().backend(backend).timeout(std::chrono::seconds(30)));
    const auto tensor = values_of_rank(group->rank(), 100003, at::kFloat);
    group->all_reduce(tensor, ReduceOp::Avg).wait();
    results.push_back(tensor);
    group->close();
  }
  EXPECT_TRUE(torch::equal(results[0], results[1]));
}

#ifndef __SANITIZE_ADDRESS__
TEST(Collectives, GroupMemoryThatOneRankCannotMapIsAnErrorOnAllAndTheGroupGoesOn) {
  if (LaunchEnvironment::detect().world_size == 1) return;
  const auto group = init_process_group(
      ProcessGroupOptions().backend(Backend::SharedMemory).timeout(std::chrono::seconds(30)));
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
  for (const auto backend : {Backend::SharedMemory, Backend::Mpi}) {
#ifndef LOCKSTEP_TEST_MPI
    if (backend == Backend::Mpi) continue;
#endif
    const auto group = init_process_group(
        ProcessGroupOptions().backend(backend).timeout(std::chrono::seconds(30)));
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

}  // namespace
}  // namespace lockstep::testing
