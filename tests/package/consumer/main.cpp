// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/lockstep.h>
#include <torch/torch.h>

#include <cstdio>

int main() {
  const auto group = lockstep::init_process_group();
  lockstep::DistributedDataParallel<torch::nn::Linear> model(torch::nn::Linear(2, 1), group);
  model->forward(torch::full({1, 2}, static_cast<float>(group->rank()))).sum().backward();
  const auto gradient = model->parameters()[0].grad()[0][0].item<float>();
  const auto expected = static_cast<float>(group->size() - 1) / 2;
  group->close();
  if (group->rank() == 0) {
    std::printf("consumer: %d ranks, gradient %g\n", group->size(), static_cast<double>(gradient));
  }
  return gradient == expected ? 0 : 1;
}
