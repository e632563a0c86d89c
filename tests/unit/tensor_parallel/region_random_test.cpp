// SPDX-License-Identifier: BSD-3-Clause
#include "tensor_ranks.h"

namespace lockstep::testing {
namespace {

TEST(RegionRandomNumbers, DifferInsideAndContinueOutside) {
  run_ranks_or_throw(1, [](const GroupPointer& group) {
    const auto outside = with_seed(5, [] { return torch::rand({6}); });
    lockstep::tensor_parallel::RegionRandom random(5, *group);
    const auto saved = random.state();
    torch::Tensor first, inside, second, more;
    with_seed(5, [&] {
      first = torch::rand({3});
      {
        const auto scope = random.enter();
        inside = torch::rand({3});
        expect_refusal([&] { (void)random.enter(); }, "enter() inside of a scope");
        expect_refusal([&] { random.set_state(saved); }, "set_state inside of a scope");
        expect_refusal([&] { (void)random.state(); }, "state() inside of a scope");
      }
      second = torch::rand({3});
      const auto scope = random.enter();
      more = torch::rand({3});
      return 0;
    });
    EXPECT_TRUE(torch::equal(torch::cat({first, second}), outside));
    EXPECT_FALSE(torch::equal(inside, first));
    EXPECT_FALSE(torch::equal(inside, more)) << "the region's numbers do not go on";
    random.set_state(saved);
    with_seed(1, [&] {
      const auto scope = random.enter();
      EXPECT_TRUE(torch::equal(torch::rand({3}), inside));
      return 0;
    });
  });
}

TEST(RegionRandomNumbers, DifferBetweenRanks) {
  std::vector<torch::Tensor> numbers(3);
  run_ranks_or_throw(3, [&](const GroupPointer& group) {
    lockstep::tensor_parallel::RegionRandom random(5, *group);
    const auto saved = random.state();
    // At the same time as the other threads, none of which disturbs another.
    const auto draw = [&] {
      const auto scope = random.enter();
      return torch::cat({torch::rand({1000}), torch::randn({1000})});
    };
    const auto first = draw();
    random.set_state(saved);
    EXPECT_TRUE(torch::equal(draw(), first));
    numbers[static_cast<std::size_t>(group->rank())] = first;
  });
  EXPECT_FALSE(torch::equal(numbers[0], numbers[1]));
  EXPECT_FALSE(torch::equal(numbers[1], numbers[2]));
  EXPECT_FALSE(torch::equal(numbers[0], numbers[2]));
}

torch::Tensor square_and_drop(const torch::Tensor& x) {
  return torch::dropout(x.square(), 0.5, /*train=*/true);
}

// Of ones: what is kept becomes 2, and has the gradient 4.
void expect_gradient_of_what_was_kept(const torch::Tensor& x, const torch::Tensor& y) {
  EXPECT_TRUE(torch::equal(x.grad(), 2 * y.detach()));
}

TEST(RegionRandomNumbers, AreTheSameWhenACheckpointRunsAgain) {
  run_ranks_or_throw(1, [](const GroupPointer& group) {
    lockstep::tensor_parallel::RegionRandom random(5, *group);
    const auto x = torch::ones({1000}).requires_grad_(true);
    torch::Tensor y;
    {
      const auto scope = random.enter();
      y = lockstep::checkpoint(square_and_drop, x);
    }
    const auto inside = random.state();
    const auto outside = at::globalContext().defaultGenerator(torch::kCPU).get_state();
    y.sum().backward();
    expect_gradient_of_what_was_kept(x, y);
    EXPECT_TRUE(torch::equal(random.state(), inside)) << "backward moved the region's numbers";
    EXPECT_TRUE(
        torch::equal(at::globalContext().defaultGenerator(torch::kCPU).get_state(), outside));
  });
}

TEST(RegionRandomNumbers, DoNotReachACheckpointFromOutside) {
  run_ranks_or_throw(1, [](const GroupPointer& group) {
    lockstep::tensor_parallel::RegionRandom random(5, *group);
    const auto x = torch::ones({1000}).requires_grad_(true);
    const auto y = lockstep::checkpoint(square_and_drop, x);
    const auto inside = random.state();
    {
      const auto scope = random.enter();
      y.sum().backward();
    }
    expect_gradient_of_what_was_kept(x, y);
    EXPECT_TRUE(torch::equal(random.state(), inside));
  });
}

TEST(RegionRandomNumbers, AreRefusedToACheckpointThatEntersAgain) {
  run_ranks_or_throw(1, [](const GroupPointer& group) {
    lockstep::tensor_parallel::RegionRandom random(5, *group);
    const auto x = torch::ones({10}).requires_grad_(true);
    const auto y = lockstep::checkpoint(
        [&](const torch::Tensor& input) {
          const auto scope = random.enter();
          return square_and_drop(input);
        },
        x);
    expect_refusal([&] { y.sum().backward(); }, "RegionRandom: enter() in backward");
    const auto scope = random.enter();  // the object can go on
  });
}

}  // namespace
}  // namespace lockstep::testing
