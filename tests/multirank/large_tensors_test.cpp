// SPDX-License-Identifier: BSD-3-Clause
// Tensors of more than 2^31 elements: whatever counts in an int somewhere, MPI first of all, shows.
#include <gtest/gtest.h>
#include <lockstep/lockstep.h>
#include <torch/torch.h>
#include <unistd.h>

#include <cstdint>

namespace lockstep::testing {
namespace {

constexpr std::int64_t kElements = (std::int64_t{1} << 31) + 12345;

/// A tensor a rank, what is staged of it, and some room.
bool has_memory(int ranks) {
  const auto pages = static_cast<std::int64_t>(::sysconf(_SC_AVPHYS_PAGES));
  return pages * ::sysconf(_SC_PAGESIZE) > 2 * ranks * kElements;
}

class LargeTensors : public ::testing::TestWithParam<Backend> {};

/// Every value follows from its place, so that no piece can be in another's.
void fill(torch::Tensor& tensor, int rank) {
  constexpr std::int64_t kPiece = 251 * 100'000;
  const auto pattern = torch::arange(kPiece, torch::kInt).remainder(251).to(torch::kByte);
  for (std::int64_t start = 0; start < tensor.numel(); start += kPiece) {
    const auto end = std::min(start + kPiece, tensor.numel());
    tensor.slice(0, start, end).copy_(pattern.slice(0, 0, end - start));
  }
  tensor.bitwise_xor_(static_cast<std::uint8_t>(rank));
}

void expect_pattern(const torch::Tensor& tensor, int mask, const char* what) {
  constexpr std::int64_t kPiece = 251 * 100'000;
  const auto pattern = torch::arange(kPiece, torch::kInt).remainder(251).to(torch::kByte);
  const auto expected = pattern.bitwise_xor(static_cast<std::uint8_t>(mask));
  for (std::int64_t start = 0; start < tensor.numel(); start += kPiece) {
    const auto end = std::min(start + kPiece, tensor.numel());
    ASSERT_TRUE(torch::equal(tensor.slice(0, start, end), expected.slice(0, 0, end - start)))
        << what << " from " << start;
  }
}

TEST_P(LargeTensors, AreReducedBroadcastAndSentWhole) {
  const auto group = init_process_group(
      ProcessGroupOptions().backend(GetParam()).timeout(std::chrono::minutes(4)));
  ASSERT_EQ(group->size(), 2);
  const auto enough = torch::full({1}, has_memory(2) ? 1 : 0);
  group->all_reduce(enough, ReduceOp::Min).wait();
  if (enough.item<int>() == 0) {
    group->close();
    GTEST_SKIP() << "this machine has too little memory for two tensors of 2 GiB";
  }
  auto tensor = torch::empty({kElements}, torch::kByte);
  fill(tensor, group->rank());
  // x, and x ^ 1; together 1.
  group->all_reduce(tensor, ReduceOp::BitXor).wait();
  EXPECT_EQ(tensor.min().item<int>(), 1);
  EXPECT_EQ(tensor.max().item<int>(), 1);
  fill(tensor, group->rank() + 2);
  group->broadcast(tensor, 1).wait();
  expect_pattern(tensor, 3, "broadcast");
  if (group->rank() == 0) {
    fill(tensor, 5);
    group->send(tensor, 1).wait();
  } else {
    group->recv(tensor, 0).wait();
    expect_pattern(tensor, 5, "message");
  }
  group->close();
}

#ifdef LOCKSTEP_TEST_MPI
const auto kBackends =
    ::testing::Values(Backend::SharedMemory, Backend::Mpi, Backend::Hierarchical);
#else
const auto kBackends = ::testing::Values(Backend::SharedMemory);
#endif
INSTANTIATE_TEST_SUITE_P(Backends, LargeTensors, kBackends,
                         [](const auto& test) { return std::string(to_string(test.param)); });

}  // namespace
}  // namespace lockstep::testing
