// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/optim/adam.h>
#include <lockstep/optim/adamw.h>
#include <lockstep/optim/lamb.h>
#include <lockstep/optim/lars.h>
#include <lockstep/optim/muon.h>
#include <lockstep/optim/rmsprop.h>
#include <lockstep/optim/sgd.h>

#include "scheduled_groups.h"
#include "support/expected_errors.h"

namespace lockstep::optim::lr_scheduler {
namespace {

using testing::expect_refusal;
using Rates = std::vector<double>;

double momentum_of(const torch::optim::Optimizer& optimizer, std::size_t group = 0) {
  return dynamic_cast<const torch::optim::SGDOptions&>(optimizer.param_groups()[group].options())
      .momentum();
}

TEST(CyclicLR, TheMomentumFallsWhileTheRateRises) {
  const auto optimizer = sgd({5, 5});
  CyclicLR schedule(*optimizer, CyclicLROptions(0.25, {0.75, 1.25})
                                    .step_size_up(2)
                                    .base_momentum(0.5)
                                    .max_momentum({0.75, 1.0}));
  EXPECT_EQ(rates_of(*optimizer), (Rates{0.25, 0.25}));
  EXPECT_EQ(momentum_of(*optimizer, 1), 1.0);
  schedule.step();
  EXPECT_EQ(rates_of(*optimizer), (Rates{0.5, 0.75}));
  EXPECT_EQ(momentum_of(*optimizer, 0), 0.625);
  EXPECT_EQ(momentum_of(*optimizer, 1), 0.75);
  schedule.step();
  EXPECT_EQ(rates_of(*optimizer), (Rates{0.75, 1.25}));
  EXPECT_EQ(momentum_of(*optimizer, 0), 0.5);
  schedule.step();
  schedule.step();
  EXPECT_EQ(rates_of(*optimizer), (Rates{0.25, 0.25}));
  EXPECT_EQ(momentum_of(*optimizer, 1), 1.0);
}

TEST(CyclicLR, AFunctionOfTheProgramScales) {
  const auto optimizer = sgd({1});
  std::vector<double> asked;
  CyclicLR schedule(*optimizer, CyclicLROptions(0, 1)
                                    .step_size_up(1)
                                    .step_size_down(1)
                                    .scale_fn([&](double x) {
                                      asked.push_back(x);
                                      return x;
                                    })
                                    .scale_mode("iterations")
                                    .cycle_momentum(false));
  EXPECT_EQ(rates_over(schedule, 3), (Rates{0, 1, 0, 3}));
  EXPECT_EQ(asked, (Rates{0, 1, 2, 3}));
  EXPECT_EQ(momentum_of(*optimizer), 0.5);
}

TEST(OneCycleLR, GoesUpAndDownOnce) {
  const auto optimizer = sgd({1});
  OneCycleLR schedule(*optimizer, OneCycleLROptions(1.0)
                                      .epochs(3)
                                      .steps_per_epoch(4)
                                      .pct_start(0.25)
                                      .anneal_strategy("linear")
                                      .div_factor(4)
                                      .final_div_factor(2));
  EXPECT_EQ(schedule.get_last_lr(), Rates{0.25});
  EXPECT_EQ(momentum_of(*optimizer), 0.95);
  schedule.step();
  schedule.step();
  EXPECT_EQ(schedule.get_last_lr(), Rates{1.0});
  EXPECT_NEAR(momentum_of(*optimizer), 0.85, 1e-15);
  for (int i = 0; i < 9; ++i) schedule.step();
  EXPECT_EQ(schedule.get_last_lr(), Rates{0.125});
  EXPECT_NEAR(momentum_of(*optimizer), 0.95, 1e-15);
  schedule.step();  // Python allows one more
  expect_refusal([&] { schedule.step(); },
                 "tried to step 13 times; the specified number of total steps is 12");
  EXPECT_EQ(schedule.last_epoch(), 12);
}

TEST(OneCycleLR, CyclesTheFirstBetaOfAdam) {
  torch::optim::Adam optimizer({torch::zeros({1})},
                               torch::optim::AdamOptions(1).betas({0.5, 0.875}));
  OneCycleLR schedule(optimizer, 0.1, 10);
  const auto& options =
      static_cast<const torch::optim::AdamOptions&>(optimizer.param_groups()[0].options());
  EXPECT_EQ(options.betas(), std::make_tuple(0.95, 0.875));
  schedule.step();
  schedule.step();
  EXPECT_EQ(options.betas(), std::make_tuple(0.85, 0.875));
}

TEST(OneCycleLR, RMSpropHasMomentum) {
  torch::optim::RMSprop optimizer({torch::zeros({1})}, torch::optim::RMSpropOptions(1));
  OneCycleLR schedule(optimizer, 0.1, 10);
  EXPECT_EQ(static_cast<const torch::optim::RMSpropOptions&>(optimizer.defaults()).momentum(), 0);
  EXPECT_EQ(static_cast<const torch::optim::RMSpropOptions&>(optimizer.param_groups()[0].options())
                .momentum(),
            0.95);
}

/// Options of an optimizer that Lockstep does not know.
struct OwnOptions : torch::optim::OptimizerCloneableOptions<OwnOptions>, MomentumOptions {
  double get_lr() const override { return rate; }
  void set_lr(const double lr) override { rate = lr; }
  bool is_beta1() const override { return true; }
  double get_momentum() const override { return beta1; }
  void set_momentum(double momentum) override { beta1 = momentum; }

  double rate = 1;
  double beta1 = 0.5;
};
class OwnOptimizer : public torch::optim::Optimizer {
 public:
  OwnOptimizer()
      : Optimizer(std::vector<torch::Tensor>{torch::zeros({1})}, std::make_unique<OwnOptions>()) {}
  torch::Tensor step(LossClosure /*closure*/ = nullptr) override { return {}; }
};

TEST(OneCycleLR, OptionsOfAProgramsOwnOptimizerSayHowToSetMomentum) {
  OwnOptimizer optimizer;
  OneCycleLR schedule(optimizer, 0.1, 10);
  const auto& options = static_cast<const OwnOptions&>(optimizer.param_groups()[0].options());
  EXPECT_EQ(options.beta1, 0.95);
  EXPECT_NE(schedule.state().find("\"use_beta1\":true"), std::string::npos);
  OwnOptimizer other;
  OneCycleLR loaded(other, 0.1, 10);
  schedule.step();
  loaded.load_state(schedule.state());
  EXPECT_EQ(static_cast<const OwnOptions&>(other.param_groups()[0].options()).beta1, options.beta1);
  EXPECT_NE(options.beta1, 0.95);
}

/// What an optimizer of Lockstep has at each step, which is what LibTorch's SGD has.
template <class Own, class Options>
void expect_cycled(Options options, bool is_beta1) {
  const auto known = sgd({1});
  OneCycleLR expected(*known, 0.1, 10);
  Own optimizer(std::vector<torch::Tensor>{torch::zeros({1, 1})}, options);
  OneCycleLR schedule(optimizer, 0.1, 10);
  const auto& own = dynamic_cast<const MomentumOptions&>(optimizer.param_groups()[0].options());
  EXPECT_EQ(own.is_beta1(), is_beta1);
  for (int step = 0; step < 10; ++step) {
    EXPECT_EQ(own.get_momentum(), momentum_of(*known));
    EXPECT_EQ(rates_of(optimizer), rates_of(*known));
    if (step == 9) break;
    schedule.step();
    expected.step();
  }
}

TEST(OneCycleLR, CyclesTheMomentumOfEachOptimizerThatHasOne) {
  expect_cycled<SGD>(SGDOptions(0.5).momentum(0.5), false);
  expect_cycled<RMSprop>(RMSpropOptions(0.5).momentum(0.5), false);
  expect_cycled<LARS>(LARSOptions(0.5).momentum(0.5), false);
  expect_cycled<Muon>(MuonOptions(0.5), false);
  expect_cycled<Adam>(AdamOptions(0.5), true);
  expect_cycled<AdamW>(AdamWOptions(0.5), true);
  expect_cycled<LAMB>(LAMBOptions(0.5), true);
}

TEST(CycledMomentum, BadArgumentsAreRefused) {
  const auto optimizer = sgd({0.5});
  auto& o = *optimizer;
  torch::optim::Adagrad adagrad({torch::zeros({1})}, 0.1);
  expect_refusal([&] { OneCycleLR(adagrad, 0.1, 10); },
                 "OneCycleLR: optimizer must support momentum or beta1");
  expect_refusal([&] { CyclicLR(adagrad, 0.1, 0.2); }, "so set cycle_momentum(false)");
  const OneCycleLR without(adagrad, OneCycleLROptions(0.1).total_steps(10).cycle_momentum(false));

  expect_refusal([&] { OneCycleLR(o, 0.1, 0); },
                 "expected positive integer total_steps, but got 0");
  expect_refusal([&] { OneCycleLR(o, OneCycleLROptions(0.1)); },
                 "you must define either total_steps or both epochs and steps_per_epoch");
  expect_refusal([&] { OneCycleLR(o, OneCycleLROptions(0.1).epochs(1)); },
                 "you must define either");
  expect_refusal([&] { OneCycleLR(o, OneCycleLROptions(0.1).epochs(-1).steps_per_epoch(1)); },
                 "expected positive integer epochs, but got -1");
  const auto of_ten = [] { return OneCycleLROptions(0.1).total_steps(10); };
  expect_refusal([&] { OneCycleLR(o, of_ten().pct_start(1.5)); },
                 "expected pct_start between 0 and 1, but got 1.5");
  expect_refusal([&] { OneCycleLR(o, of_ten().anneal_strategy("cosine")); },
                 "instead got 'cosine'");
  expect_refusal([&] { OneCycleLR(o, of_ten().div_factor(0)); }, "div_factor divides 0.1 by zero");
  expect_refusal([&] { OneCycleLR(o, of_ten().pct_start(0.1)); },
                 "a phase without steps (see pct_start and total_steps) divides 0 by zero");
  expect_refusal(
      [&] {
        OneCycleLR(o, of_ten().base_momentum({0.1, 0.2}));
      },
      "OneCycleLR: base_momentum must have the same length as the parameter groups");
  expect_refusal([&] { OneCycleLR(ScheduledOptimizer(o, {0.1}), of_ten().last_epoch(0)); },
                 "the groups of the optimizer have no max_lr");

  expect_refusal([&] { CyclicLR(o, CyclicLROptions(0.1, 0.2).mode("square")); },
                 "CyclicLR: mode is 'square'; expected triangular");
  expect_refusal(
      [&] {
        CyclicLR(o, CyclicLROptions(0.1, {0.2, 0.3}));
      },
      "CyclicLR: max_lr must have the same length");
  expect_refusal([&] { CyclicLR(o, CyclicLROptions(0.1, 0.2).step_size_up(0).step_size_down(0)); },
                 "no steps up and down");
  expect_refusal([&] { CyclicLR(o, CyclicLROptions(0.1, 0.2).step_size_up(0).step_size_down(5)); },
                 "step_size_up must be above 0");
  expect_refusal(
      [&] {
        CyclicLR(
            o, CyclicLROptions(0.1, 0.2).scale_fn([](double) { return 1.0; }).scale_mode("steps"));
      },
      "scale_mode is 'steps'; expected cycle or iterations");
}

}  // namespace
}  // namespace lockstep::optim::lr_scheduler
