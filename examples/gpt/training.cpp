// SPDX-License-Identifier: BSD-3-Clause
#include "training.h"

#include <lockstep/amp/autocast.h>
#include <lockstep/optim/clip_grad.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <stdexcept>
#include <string>

namespace example {
namespace {

void check_loss(double loss, int64_t step) {
  if (std::isfinite(loss)) return;
  std::string message = "the loss became ";
  message += std::to_string(loss) + " in step " + std::to_string(step);
  throw std::runtime_error(message + "; try a smaller --lr or a longer --warmup");
}

}  // namespace

double Trainer::run_step(BatchStream& batches, int64_t step) {
  net->train();
  optimizer.zero_grad();
  double loss = 0;
  for (int64_t i = 0; i < options.accumulate; ++i) {
    // All backwards of a step but the last one add up gradients on this rank.
    std::optional<lockstep::NoSyncGuard> pause;
    if (i + 1 < options.accumulate) pause.emplace(model->no_sync());
    loss += run_backward(batches.next());
  }
  check_loss(loss, step);
  lockstep::optim::clip_grad_norm_(net->parameters(), options.recipe.clip());
  optimizer.step();
  schedule.step();
  if (average) average->update();
  return loss;
}

double Trainer::run_backward(Batch& batch) {
  torch::Tensor loss;
  {
    const lockstep::amp::autocast guard(device.type(), torch::kBFloat16, options.bf16);
    loss = loss_of(model, batch.data.to(device), batch.target.to(device));
  }
  loss = loss / static_cast<double>(options.accumulate);
  loss.backward();  // the gradients of all ranks are averaged here
  return loss.item<double>();
}

std::unique_ptr<lockstep::optim::AveragedModel> make_average(Gpt& net, double decay) {
  if (decay == 0) return nullptr;
  const auto follow = [decay](at::TensorList averaged, at::TensorList current, int64_t updates) {
    const auto passed = static_cast<double>(updates);
    at::_foreach_lerp_(averaged, current, 1 - std::min(decay, passed / (passed + 10)));
  };
  return std::make_unique<lockstep::optim::AveragedModel>(
      net, lockstep::optim::AveragedModelOptions().multi_avg_fn(follow));
}

double validation_loss(Gpt& net, Loader& windows, bool bf16, c10::Device device,
                       lockstep::ProcessGroup& group) {
  const torch::NoGradGuard no_grad;
  net->eval();
  auto sums = torch::zeros({2}, torch::kDouble);  // losses, windows
  for (auto& batch : windows) {
    const lockstep::amp::autocast guard(device.type(), torch::kBFloat16, bf16);
    const auto loss = loss_of(net, batch.data.to(device), batch.target.to(device));
    const auto number = static_cast<double>(batch.data.size(0));
    sums += torch::tensor({loss.item<double>() * number, number}, torch::kDouble);
  }
  group.all_reduce(sums, lockstep::ReduceOp::Sum).wait();
  return (sums[0] / sums[1]).item<double>();
}

}  // namespace example
