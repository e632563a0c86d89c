// SPDX-License-Identifier: BSD-3-Clause
// The snippets about optimizers on the page of the training toolbox. check_snippets.py compares each
// `// [name]` part with the page.
#include <gtest/gtest.h>
#include <lockstep/lockstep.h>
#include <torch/torch.h>

#include <memory>
#include <utility>
#include <vector>

namespace {

// clang-format off
// [own_optimizer]
struct SignOptions : torch::optim::OptimizerCloneableOptions<SignOptions> {
  TORCH_ARG(double, lr) = 1e-3;
};

class SignDescent : public torch::optim::Optimizer, public lockstep::optim::NamedOptimizer {
 public:
  explicit SignDescent(std::vector<torch::Tensor> parameters)
      : Optimizer(std::move(parameters), std::make_unique<SignOptions>()) {}

  torch::Tensor step(LossClosure closure = nullptr) override {
    const auto loss = closure ? closure() : torch::Tensor();
    const torch::NoGradGuard without_gradients;
    for (auto& group : param_groups()) {
      for (auto& parameter : group.params()) {
        const double lr = dynamic_cast<SignOptions&>(group.options()).lr();
        if (parameter.grad().defined()) parameter.sub_(parameter.grad().sign(), lr);
      }
    }
    return loss;
  }

  void visit_options(torch::optim::OptimizerOptions& options,
                     lockstep::optim::OptionVisitor& visitor) const override {
    visitor.number("lr", dynamic_cast<SignOptions&>(options).lr());
  }
  std::unique_ptr<torch::optim::OptimizerParamState> new_state() const override {
    return std::make_unique<lockstep::optim::ParameterState>();
  }
  void visit_state(torch::optim::OptimizerParamState&,
                   lockstep::optim::StateVisitor&) const override {}  // it has none
};
// [own_optimizer]
// clang-format on

TEST(OptimizersPage, MakesAStep) {
  torch::nn::Linear net(2, 3);
  const auto data = torch::ones({4, 2});
  const auto target = torch::zeros({4, 3});
  const auto before = net->weight.detach().clone();
  // [first_step]
  lockstep::optim::AdamW optimizer(net->parameters(), lockstep::optim::AdamWOptions(1e-3));

  optimizer.zero_grad();
  torch::mse_loss(net->forward(data), target).backward();
  optimizer.step();
  // [first_step]
  EXPECT_FALSE(net->weight.equal(before));
}

TEST(OptimizersPage, HasGroups) {
  torch::nn::Linear net(2, 3);
  // [decay_groups]
  lockstep::optim::AdamW optimizer(lockstep::optim::no_decay_groups(net, /*weight_decay=*/0.1),
                                   lockstep::optim::AdamWOptions(3e-4).betas({0.9, 0.95}));
  // [decay_groups]
  EXPECT_EQ(optimizer.param_groups().size(), 2U);
}

TEST(OptimizersPage, SavesOnesOwn) {
  torch::nn::Linear net(2, 3);
  SignDescent optimizer(net->parameters());
  optimizer.step([&] {
    auto loss = net->forward(torch::ones({4, 2})).square().mean();
    loss.backward();
    return loss;
  });
  EXPECT_EQ(lockstep::training::state_of(optimizer, net).param_groups,
            R"([{"lr":0.001,"params":["weight","bias"]}])");
}

}  // namespace
