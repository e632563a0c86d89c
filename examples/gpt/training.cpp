// SPDX-License-Identifier: BSD-3-Clause
#include "training.h"

#include <ATen/autocast_mode.h>

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

Autocast::Autocast(bool bf16, c10::Device device) : bf16_(bf16), device_(device.type()) {
  if (!bf16_) return;
  at::autocast::set_autocast_dtype(device_, torch::kBFloat16);
  at::autocast::set_autocast_enabled(device_, true);
}

Autocast::~Autocast() {
  if (!bf16_) return;
  at::autocast::clear_cache();  // the bfloat16 copies of parameters, which the step changes
  at::autocast::set_autocast_enabled(device_, false);
}

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
  torch::nn::utils::clip_grad_norm_(net->parameters(), options.recipe.clip());
  set_learning_rate(optimizer, learning_rate_at(step, options.recipe));
  optimizer.step();
  if (average.ptr() != net.ptr()) follow_with_average(step);
  return loss;
}

double Trainer::run_backward(Batch& batch) {
  torch::Tensor loss;
  {
    const Autocast autocast(options.bf16, device);
    loss = loss_of(model, batch.data.to(device), batch.target.to(device));
  }
  loss = loss / static_cast<double>(options.accumulate);
  loss.backward();  // the gradients of all ranks are averaged here
  return loss.item<double>();
}

void Trainer::follow_with_average(int64_t step) {
  const torch::NoGradGuard no_grad;
  // In the first steps the average forgets sooner: it would else keep what was drawn.
  const auto passed = static_cast<double>(step);
  const double kept = std::min(options.average, passed / (passed + 10));
  const auto from = net->parameters();
  auto to = average->parameters();
  for (std::size_t i = 0; i < to.size(); ++i) to[i].lerp_(from[i], 1 - kept);
}

double validation_loss(Gpt& net, Loader& windows, bool bf16, c10::Device device,
                       lockstep::ProcessGroup& group) {
  const torch::NoGradGuard no_grad;
  net->eval();
  auto sums = torch::zeros({2}, torch::kDouble);  // losses, windows
  for (auto& batch : windows) {
    const Autocast autocast(bf16, device);
    const auto loss = loss_of(net, batch.data.to(device), batch.target.to(device));
    const auto number = static_cast<double>(batch.data.size(0));
    sums += torch::tensor({loss.item<double>() * number, number}, torch::kDouble);
  }
  group.all_reduce(sums, lockstep::ReduceOp::Sum).wait();
  return (sums[0] / sums[1]).item<double>();
}

}  // namespace example
