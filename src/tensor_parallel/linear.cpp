// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/TensorOperators.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/linear.h>
#include <lockstep/tensor_parallel/linear.h>
#include <lockstep/tensor_parallel/regions.h>
#include <torch/nn/modules/linear.h>

#include <utility>

#include "tensor_parallel/column_linear.h"
#include "tensor_parallel/shards.h"

namespace lockstep::nn {
namespace {

/// Autocast sees a linear layer, but not a function that contains one.
at::Tensor as_autocast_wants(const at::Tensor& tensor, c10::DeviceType device) {
  if (!tensor.defined() || tensor.scalar_type() != at::kFloat ||
      !at::autocast::is_autocast_enabled(device)) {
    return tensor;
  }
  return tensor.to(at::autocast::get_autocast_dtype(device));
}

void check_columns(const at::Tensor& input, std::int64_t columns, const char* name,
                   const char* which) {
  TORCH_CHECK(input.defined() && input.dim() >= 1, name,
              ": the input has no columns; expected {*, ", columns, "}");
  TORCH_CHECK(input.size(-1) == columns, name, ": expected ", columns, " columns", which, ", got ",
              input.sizes());
}

}  // namespace

ParallelLinearImpl::ParallelLinearImpl(ParallelLinearOptions its_options, const char* name)
    : options(std::move(its_options)) {
  TORCH_CHECK(options.group() != nullptr, name, ": the process group is null");
  TORCH_CHECK(options.in_features() > 0 && options.out_features() > 0, name, ": a layer from ",
              options.in_features(), " to ", options.out_features(),
              " features; both must be positive");
}

std::pair<torch::Tensor, torch::Tensor> ParallelLinearImpl::draw(std::int64_t dim) const {
  const torch::nn::Linear full(
      torch::nn::LinearOptions(options.in_features(), options.out_features()).bias(options.bias()));
  const at::NoGradGuard no_grad;
  const ProcessGroup& group = *options.group();
  const auto cut = [&](const torch::Tensor& tensor, const char* name) {
    return cut_shard(tensor, {name, dim, options.parts()}, group.rank(), group.size());
  };
  torch::Tensor own_bias;
  if (options.bias()) own_bias = dim == 0 ? cut(full->bias, "bias") : full->bias.clone();
  return {cut(full->weight, "weight"), own_bias};
}

void ParallelLinearImpl::print(std::ostream& stream, const char* name) const {
  stream << std::boolalpha << "lockstep::nn::" << name << "(in_features=" << options.in_features()
         << ", out_features=" << options.out_features() << ", bias=" << options.bias()
         << ", sequence_parallel=" << options.sequence_parallel()
         << ", ranks=" << options.group()->size() << ')';
}

ColumnParallelLinearImpl::ColumnParallelLinearImpl(ParallelLinearOptions its_options)
    : ParallelLinearImpl(std::move(its_options), "ColumnParallelLinear") {
  check_divides(options.out_features(), options.parts(), options.group()->size(),
                "ColumnParallelLinear: out_features");
  TORCH_CHECK(!options.gather_output() || options.parts() == 1,
              "ColumnParallelLinear: gather_output joins the ranks' columns, which in ",
              options.parts(), " parts are not in the order of the full output");
  ColumnParallelLinearImpl::reset();
}

void ColumnParallelLinearImpl::reset() {
  auto [own_weight, own_bias] = draw(0);
  weight = register_parameter("weight", std::move(own_weight));
  bias = register_parameter("bias", std::move(own_bias), options.bias());
}

void ColumnParallelLinearImpl::pretty_print(std::ostream& stream) const {
  print(stream, "ColumnParallelLinear");
}

torch::Tensor ColumnParallelLinearImpl::forward(const torch::Tensor& input) {
  check_columns(input, options.in_features(), "ColumnParallelLinear", "");
  TORCH_CHECK(!options.sequence_parallel() || input.dim() >= 2,
              "ColumnParallelLinear: with sequence_parallel, the input has a dimension before its "
              "columns, got ",
              input.sizes());
  const auto device = input.device().type();
  const torch::Tensor output =
      column_linear(as_autocast_wants(input, device), as_autocast_wants(weight, device),
                    as_autocast_wants(bias, device), options.group(), options.sequence_parallel());
  return options.gather_output() ? tensor_parallel::gather_from(output, options.group()) : output;
}

std::vector<ShardedTensor> ColumnParallelLinearImpl::sharded_tensors() const {
  std::vector<ShardedTensor> sharded{{"weight", 0, options.parts()}};
  if (options.bias()) sharded.push_back({"bias", 0, options.parts()});
  return sharded;
}

RowParallelLinearImpl::RowParallelLinearImpl(ParallelLinearOptions its_options)
    : ParallelLinearImpl(std::move(its_options), "RowParallelLinear") {
  TORCH_CHECK(options.parts() == 1, "RowParallelLinear: parts is ", options.parts(),
              "; only a column-parallel layer has parts");
  check_divides(options.in_features(), 1, options.group()->size(),
                "RowParallelLinear: in_features");
  RowParallelLinearImpl::reset();
}

void RowParallelLinearImpl::reset() {
  auto [own_weight, own_bias] = draw(1);
  weight = register_parameter("weight", std::move(own_weight));
  bias = register_parameter("bias", std::move(own_bias), options.bias());
}

void RowParallelLinearImpl::pretty_print(std::ostream& stream) const {
  print(stream, "RowParallelLinear");
}

torch::Tensor RowParallelLinearImpl::forward(const torch::Tensor& input) {
  const auto& group = options.group();
  const bool is_cut = options.input_is_parallel();
  check_columns(input, is_cut ? weight.size(1) : options.in_features(), "RowParallelLinear",
                is_cut ? " of this rank" : "");
  const torch::Tensor product =
      at::linear(is_cut ? input : tensor_parallel::scatter_to(input, group), weight);
  torch::Tensor output = options.sequence_parallel()
                             ? tensor_parallel::reduce_scatter_to_sequence(product, group)
                             : tensor_parallel::reduce_from(product, group);
  if (!bias.defined()) return output;
  // Over a part of the sequence, a rank has a part of the bias's gradient.
  const torch::Tensor its_bias =
      options.sequence_parallel() ? tensor_parallel::copy_to(bias, group) : bias;
  return output + its_bias.to(output.scalar_type());
}

std::vector<ShardedTensor> RowParallelLinearImpl::sharded_tensors() const {
  return {{"weight", 1, 1}};
}

}  // namespace lockstep::nn
