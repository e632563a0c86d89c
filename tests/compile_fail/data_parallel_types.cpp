// SPDX-License-Identifier: BSD-3-Clause
// Batches and outputs that a DataParallel refuses, one a line, with what the compiler must say.
#include <lockstep/parallel/data_parallel.h>
#include <torch/nn/cloneable.h>

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace {

using at::Tensor;

struct Boxes {
  std::vector<Tensor> corners;
};
struct Scores {
  Tensor scores;
};

template <typename Input, typename Output>
struct Net : torch::nn::Cloneable<Net<Input, Output>> {
  void reset() override {}
  Output forward(const Input& input);
};
template <typename Input, typename Output = Tensor>
using Model = lockstep::DataParallel<std::shared_ptr<Net<Input, Output>>>;

const auto loss = [](const auto& output, const auto& /*target*/) { return output; };

// clang-format off
void refused(Model<Tensor>& model, Model<Tensor, Scores>& scores, Model<Tensor, std::pair<Tensor, double>>& both,
             Model<std::pair<Tensor, std::vector<std::int64_t>>>& lengths, const Tensor& x,
             const std::pair<Tensor, std::vector<std::int64_t>>& with_lengths) {
  model.step(x, Boxes(), loss);  // refused: input and target must be tensors, or tuples, containers and optionals of tensors
  model.step(x, std::vector<Boxes>(), loss);  // refused: input and target must be tensors, or tuples, containers and optionals of tensors
  model.step(x, std::vector<std::int64_t>(), loss);  // refused: a container of numbers or strings would go whole to every rank
  lengths.forward(with_lengths);  // refused: a container of numbers or strings would go whole to every rank
  scores.forward(x);  // refused: the module's output must be tensors, or tuples, containers and optionals of tensors
  both.forward(x);  // refused: the module's output must be tensors, or tuples, containers and optionals of tensors
}
// clang-format on

void accepted(
    Model<Tensor>& model,
    Model<std::map<std::string, std::pair<Tensor, double>>, std::map<std::string, Tensor>>& maps,
    const Tensor& x) {
  model.step(x, std::tuple<Tensor, double, std::string>(), loss);
  model.step(x, std::tuple<Tensor, std::array<int, 2>>(), loss);
  model.step(x, std::vector<std::optional<Tensor>>(), loss);
  maps.forward(std::map<std::string, std::pair<Tensor, double>>());
}

}  // namespace
