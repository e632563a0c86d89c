// SPDX-License-Identifier: BSD-3-Clause
#include "evaluation.h"

namespace example {

void add_batch(Totals& totals, double loss, const torch::Tensor& scores,
               const torch::Tensor& target) {
  const auto samples = target.size(0);
  totals.loss += loss * static_cast<double>(samples);
  totals.correct += scores.argmax(1).eq(target).sum().item<int64_t>();
  totals.samples += samples;
}

Totals times(Totals totals, int ranks) {
  totals.loss *= ranks;
  totals.correct *= ranks;
  totals.samples *= ranks;
  return totals;
}

Totals sum_over_ranks(const Totals& totals, lockstep::ProcessGroup& group) {
  // Doubles hold the counts exactly.
  const auto sums = torch::tensor(
      {totals.loss, static_cast<double>(totals.correct), static_cast<double>(totals.samples)},
      torch::kDouble);
  group.all_reduce(sums, lockstep::ReduceOp::Sum).wait();
  Totals result;
  result.loss = sums[0].item<double>();
  result.correct = static_cast<int64_t>(sums[1].item<double>());
  result.samples = static_cast<int64_t>(sums[2].item<double>());
  return result;
}

Totals evaluate(ResNet& net, lockstep::data::DataLoader<ImageDataset>& images, c10::Device device) {
  const torch::NoGradGuard no_grad;
  net->eval();
  Totals totals;
  for (auto& batch : images) {
    const auto scores = net->forward(batch.data.to(device));
    const auto target = batch.target.to(device);
    const auto loss = torch::nn::functional::cross_entropy(scores, target);
    add_batch(totals, loss.item<double>(), scores, target);
  }
  return totals;
}

}  // namespace example
