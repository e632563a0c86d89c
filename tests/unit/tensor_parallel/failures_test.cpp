// SPDX-License-Identifier: BSD-3-Clause
#include <latch>
#include <stdexcept>

#include "tensor_ranks.h"

namespace lockstep::testing {
namespace {

using namespace std::chrono_literals;

constexpr int kVictim = 1;

struct Gone : std::runtime_error {
  Gone() : std::runtime_error("gone") {}
};

class TensorFailures : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, TensorFailures, ::testing::Values(2, 3));

struct Layers {
  explicit Layers(const GroupPointer& group, bool sequence = false)
      : up(nn::ParallelLinearOptions(6, 12, group).sequence_parallel(sequence)),
        down(nn::ParallelLinearOptions(12, 6, group).sequence_parallel(sequence)) {}
  torch::Tensor forward(const torch::Tensor& x) { return down(up(x)); }
  nn::ColumnParallelLinear up;
  nn::RowParallelLinear down;
};

/// All but the victim get an error that names it.
void expect_that_the_victim_is_named(const std::vector<std::exception_ptr>& errors) {
  for (std::size_t rank = 0; rank < errors.size(); ++rank) {
    if (rank == kVictim) continue;
    expect_error<PeerLostError>(errors[rank], "rank 1");
  }
}

TEST_P(TensorFailures, ADeadRankIsNamedInForward) {
  const auto errors = run_ranks(GetParam(), [](const GroupPointer& group) {
    Layers layers(group);
    if (group->rank() == kVictim) throw Gone();
    (void)layers.forward(torch::ones({4, 6}));
  });
  expect_that_the_victim_is_named(errors);
}

TEST_P(TensorFailures, ADeadRankIsNamedInBackward) {
  for (const bool sequence : {false, true}) {
    const auto errors = run_ranks(GetParam(), [&](const GroupPointer& group) {
      Layers layers(group, sequence);
      const auto x = torch::ones({4, 6}).requires_grad_(true);
      const auto loss = layers.forward(x).sum();
      group->barrier();  // all have left forward, and the error is backward's
      if (group->rank() == kVictim) throw Gone();
      loss.backward();
    });
    expect_that_the_victim_is_named(errors);
  }
}

TEST_P(TensorFailures, ARankWithoutBackwardIsNamedWhenTheDeadlineHasPassed) {
  std::latch have_failed(GetParam() - 1);
  const auto errors = run_ranks(GetParam(), [&](const GroupPointer& group) {
    Layers layers(group);
    const auto x = torch::ones({4, 6}).requires_grad_(true);
    const auto loss = layers.forward(x).sum();
    group->barrier();
    if (group->rank() == kVictim) {
      have_failed.wait();
      return;
    }
    const auto limit = group->with(CallOptions().timeout(1s));
    try {
      loss.backward();
      ADD_FAILURE() << "backward ended without rank 1";
      have_failed.count_down();
    } catch (...) {
      have_failed.count_down();
      throw;
    }
  });
  bool is_named = false;
  for (std::size_t rank = 0; rank < errors.size(); ++rank) {
    if (rank == kVictim) continue;
    expect_error<CommError>(errors[rank], "all_reduce");
    is_named = is_named || text_of(errors[rank]).find("rank 1") != std::string::npos;
  }
  EXPECT_TRUE(is_named);
}

TEST_P(TensorFailures, OtherShapesAreAMismatchOnAllRanks) {
  for (const bool is_backward : {false, true}) {
    const auto errors = run_ranks(GetParam(), [&](const GroupPointer& group) {
      Layers layers(group);
      // As many numbers in another shape: only the names of the calls tell.
      const bool is_odd = group->rank() == kVictim;
      if (is_backward) {
        const auto inside = lockstep::tensor_parallel::copy_to(
            torch::ones(is_odd ? std::vector<std::int64_t>{2, 3} : std::vector<std::int64_t>{3, 2})
                .requires_grad_(true),
            group);
        inside.sum().backward();
      } else {
        (void)layers.forward(is_odd ? torch::ones({2, 2, 6}) : torch::ones({4, 6}));
      }
    });
    for (const auto& error : errors) {
      expect_error<MismatchError>(error, is_backward ? "copy_to backward" : "reduce_from");
    }
  }
}

TEST_P(TensorFailures, OtherDimensionsAreAMismatchOnAllRanks) {
  namespace regions = lockstep::tensor_parallel;
  const std::int64_t ranks = GetParam();
  const auto errors = run_ranks(GetParam(), [&](const GroupPointer& group) {
    const std::int64_t dim = group->rank() == kVictim ? 1 : 0;
    (void)regions::gather_from(torch::ones({2, 2}), group, dim);
  });
  for (const auto& error : errors) expect_error<MismatchError>(error, "gather_from(1) [2, 2]");
  const auto others = run_ranks(GetParam(), [&](const GroupPointer& group) {
    const std::int64_t dim = group->rank() == kVictim ? 1 : 0;
    (void)regions::all_to_all(torch::ones({ranks, ranks}), group, dim, 1 - dim);
  });
  for (const auto& error : others) expect_error<MismatchError>(error, "all_to_all(1, 0)");
}

}  // namespace
}  // namespace lockstep::testing
