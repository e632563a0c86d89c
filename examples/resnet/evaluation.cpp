// SPDX-License-Identifier: BSD-3-Clause
#include "evaluation.h"

namespace example {

void Results::add(double batch_loss, const torch::Tensor& scores, const torch::Tensor& target) {
  loss.update(batch_loss, target.size(0));
  accuracy.update(scores, target);
}

Results over_all_ranks(const Results& results, lockstep::ProcessGroup& group) {
  const auto [loss, accuracy] =
      lockstep::training::reduce_metrics(group, results.loss, results.accuracy);
  return {loss, accuracy};
}

Results evaluate(ResNet& net, lockstep::data::DataLoader<ImageDataset>& images,
                 c10::Device device) {
  const torch::NoGradGuard no_grad;
  net->eval();
  Results results;
  for (auto& batch : images) {
    const auto scores = net->forward(batch.data.to(device));
    const auto target = batch.target.to(device);
    const auto loss = torch::nn::functional::cross_entropy(scores, target);
    results.add(loss.item<double>(), scores, target);
  }
  return results;
}

}  // namespace example
