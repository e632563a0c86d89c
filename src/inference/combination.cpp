// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/ones_like.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/Exception.h>
#include <lockstep/inference/combination.h>

#include <cmath>
#include <utility>

#include "inference/tensor_copy.h"

namespace lockstep::inference {
namespace {

void check_shapes(const std::vector<MemberOutput>& outputs) {
  TORCH_CHECK(!outputs.empty(), "a combination needs the output of a member");
  const auto& first = outputs.front();
  for (const auto& other : outputs) {
    TORCH_CHECK(other.output.sizes() == first.output.sizes(), "the outputs of members ", first.name,
                " and ", other.name, " have different shapes, ", first.output.sizes(), " and ",
                other.output.sizes(), ", and cannot be combined");
  }
}

at::ScalarType floating_dtype_of(const at::Tensor& tensor) {
  return tensor.is_floating_point() || tensor.is_complex() ? tensor.scalar_type() : at::kFloat;
}

// Else the dtype of the result would be that of the first member that answered.
void check_forms(const std::vector<MemberOutput>& outputs) {
  check_shapes(outputs);
  const auto& first = outputs.front();
  for (const auto& other : outputs) {
    TORCH_CHECK(floating_dtype_of(other.output) == floating_dtype_of(first.output),
                "the outputs of members ", first.name, " and ", other.name,
                " have different dtypes, ", first.output.scalar_type(), " and ",
                other.output.scalar_type(), ", and cannot be combined");
  }
}

at::Tensor floating(const at::Tensor& tensor) {
  return tensor.to(floating_dtype_of(tensor));
}

// In the order of the members: the same bits whoever was first.
at::Tensor mean_of(const std::vector<at::Tensor>& tensors) {
  if (tensors.size() == 1) return detail::copy_of(tensors.front().contiguous());
  at::Tensor sum = tensors.front().clone();
  for (std::size_t at = 1; at < tensors.size(); ++at) sum.add_(tensors[at]);
  return sum.div_(static_cast<double>(tensors.size()));
}

}  // namespace

Combination mean() {
  return Combination::in_place([](const std::vector<MemberOutput>& outputs) {
    check_forms(outputs);
    std::vector<at::Tensor> tensors;
    for (const auto& output : outputs) tensors.push_back(floating(output.output));
    return mean_of(tensors);
  });
}

Combination mean_of_probabilities(std::int64_t dim) {
  return Combination::in_place([dim](const std::vector<MemberOutput>& outputs) {
    check_forms(outputs);
    std::vector<at::Tensor> tensors;
    for (const auto& output : outputs) tensors.push_back(floating(output.output).softmax(dim));
    return mean_of(tensors);
  });
}

Combination vote(std::int64_t dim) {
  return Combination::in_place([dim](const std::vector<MemberOutput>& outputs) {
    check_shapes(outputs);
    at::Tensor votes;
    for (const auto& output : outputs) {
      const auto own = output.output.argmax(dim, /*keepdim=*/true);
      if (!votes.defined()) votes = at::zeros_like(output.output, at::kLong);
      votes.scatter_add_(dim, own, at::ones_like(own));
    }
    return votes.argmax(dim);  // the first of several that are equal
  });
}

Combination weighted(std::vector<double> weights) {
  double all = 0;
  for (const double weight : weights) {
    TORCH_CHECK(std::isfinite(weight) && weight >= 0, "weighted: ", weight,
                " is no weight; a weight is finite and not negative");
    all += weight;
  }
  TORCH_CHECK(all > 0, "weighted: one weight at least must be more than 0");
  const auto members = weights.size();
  return Combination::in_place(
      [weights = std::move(weights)](const std::vector<MemberOutput>& outputs) {
        check_forms(outputs);
        double present = 0;
        for (const auto& output : outputs) {
          TORCH_CHECK(output.member < weights.size(), "weighted: there are ", weights.size(),
                      " weights, and none for member ", output.name);
          present += weights[output.member];
        }
        TORCH_CHECK(present > 0, "weighted: the members that answered have the weight 0");
        at::Tensor sum;
        for (const auto& output : outputs) {
          const auto part = floating(output.output).mul(weights[output.member] / present);
          sum = sum.defined() ? sum.add_(part) : part;
        }
        return sum;
      },
      members);
}

}  // namespace lockstep::inference
