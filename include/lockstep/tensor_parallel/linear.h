// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/process_group.h>
#include <lockstep/core/export.h>
#include <lockstep/tensor_parallel/sharded_module.h>
#include <torch/arg.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <memory>
#include <ostream>
#include <utility>
#include <vector>

namespace lockstep::nn {

/// Options of `ColumnParallelLinear` and `RowParallelLinear`. Sizes are those of the full layer.
///
/// Thread-safety: a value.
struct LOCKSTEP_API ParallelLinearOptions {
  /// A layer from `in_features` to `out_features`, which the ranks of `group` share.
  ParallelLinearOptions(std::int64_t in_features, std::int64_t out_features,
                        std::shared_ptr<ProcessGroup> group)
      : in_features_(in_features), out_features_(out_features), group_(std::move(group)) {}

  /// Columns of the full input.
  TORCH_ARG(std::int64_t, in_features);
  /// Columns of the full output.
  TORCH_ARG(std::int64_t, out_features);
  /// The ranks that share the layer.
  TORCH_ARG(std::shared_ptr<ProcessGroup>, group);
  /// Whether something is added to the product.
  TORCH_ARG(bool, bias) = true;
  /// Of a column-parallel layer: whether all ranks get the full output, instead of their columns.
  TORCH_ARG(bool, gather_output) = false;
  /// Of a row-parallel layer: whether the input is this rank's columns, as a column-parallel layer
  /// leaves them, instead of the full input.
  TORCH_ARG(bool, input_is_parallel) = true;
  /// Whether the sequence, the first dimension, is cut outside of the pair of layers: a
  /// column-parallel layer gathers it, and a row-parallel layer leaves each rank its part.
  TORCH_ARG(bool, sequence_parallel) = false;
  /// Of a column-parallel layer: the output is so many matrices side by side, of each of which a
  /// rank has its columns. 3 for queries, keys and values in one layer.
  TORCH_ARG(std::int64_t, parts) = 1;
};

/// What the two layers have alike: the start, and the names of the parameters.
///
/// Each rank draws the full weight as `torch::nn::Linear` does and keeps its part. So the start
/// depends on the seed, which must be the same on all ranks, and not on the number of ranks.
///
/// Thread-safety: as a `torch::nn::Module`'s.
class LOCKSTEP_API ParallelLinearImpl : public ShardedModule {
 public:
  /// The group of the options.
  [[nodiscard]] const std::shared_ptr<ProcessGroup>& tensor_group() const override {
    return options.group();
  }

  ParallelLinearOptions options;  ///< as given
  torch::Tensor weight;           ///< this rank's part
  torch::Tensor bias;             ///< this rank's part, or all of it; undefined without bias

 protected:
  /// Throws: `c10::Error` for a null group, and for sizes that are not positive.
  ParallelLinearImpl(ParallelLinearOptions its_options, const char* name);
  /// Draws a full layer and returns what this rank keeps of weight and bias. `dim`: of the weight,
  /// the one that is cut.
  [[nodiscard]] std::pair<torch::Tensor, torch::Tensor> draw(std::int64_t dim) const;
  /// Writes the layer and its options.
  void print(std::ostream& stream, const char* name) const;
};

/// A linear layer of which each rank computes some columns of the output: its weight is
/// {out / ranks, in}, its bias {out / ranks}.
///
/// In backward, the sum of the input's gradient starts before the gradient of the weight is
/// computed, and is waited for after it. With `sequence_parallel`, backward gathers the input again
/// instead of keeping it.
///
/// Shapes: input {*, in}, the same on all ranks; output {*, out / ranks}, or {*, out} with
/// `gather_output`. With `sequence_parallel`, the input's first dimension is this rank's part.
/// Blocks: the calling thread: backward, and forward with `gather_output` or `sequence_parallel`.
/// Collective: forward and backward.
/// Thread-safety: as its group's, one thread at a time; on a device, backward runs in autograd's
/// thread.
/// Throws: `c10::Error` for sizes that the ranks do not divide, and for an input of other columns;
/// what a collective throws.
/// Source: Shoeybi et al., "Megatron-LM", 2019.
class LOCKSTEP_API ColumnParallelLinearImpl : public torch::nn::Cloneable<ColumnParallelLinearImpl>,
                                              public ParallelLinearImpl {
 public:
  /// A new layer; see `ParallelLinearImpl` for its values. Nothing is communicated.
  explicit ColumnParallelLinearImpl(ParallelLinearOptions options);
  /// Draws new values, as the constructor does.
  void reset() override;
  /// Writes the module's name and options.
  void pretty_print(std::ostream& stream) const override;
  /// The product; shapes, collectives and errors as the class says.
  torch::Tensor forward(const torch::Tensor& input);
  /// The weight's rows, and the bias.
  [[nodiscard]] std::vector<ShardedTensor> sharded_tensors() const override;
};

/// Holder of a `ColumnParallelLinearImpl`, as LibTorch's modules have.
TORCH_MODULE(ColumnParallelLinear);

/// A linear layer of which each rank multiplies some columns of the input: its weight is
/// {out, in / ranks}. The products are added over the ranks, and the bias, {out} on every rank, is
/// added once, afterwards. With `sequence_parallel`, the gradient of the bias is summed over the
/// ranks in backward, since each rank sees a part of the sequence only.
///
/// Shapes: input {*, in / ranks}, or {*, in} without `input_is_parallel`; output {*, out}, with
/// `sequence_parallel` this rank's part of the first dimension.
/// Blocks: the calling thread: forward, and backward without `input_is_parallel` or with
/// `sequence_parallel`.
/// Collective: forward and backward.
/// Thread-safety: as its group's, one thread at a time; on a device, backward runs in autograd's
/// thread.
/// Throws: `c10::Error` for sizes that the ranks do not divide, and for an input of other columns;
/// what a collective throws.
/// Source: Shoeybi et al., "Megatron-LM", 2019.
class LOCKSTEP_API RowParallelLinearImpl : public torch::nn::Cloneable<RowParallelLinearImpl>,
                                           public ParallelLinearImpl {
 public:
  /// A new layer; see `ParallelLinearImpl` for its values. Nothing is communicated.
  explicit RowParallelLinearImpl(ParallelLinearOptions options);
  /// Draws new values, as the constructor does.
  void reset() override;
  /// Writes the module's name and options.
  void pretty_print(std::ostream& stream) const override;
  /// The product; shapes, collectives and errors as the class says.
  torch::Tensor forward(const torch::Tensor& input);
  /// The weight's columns.
  [[nodiscard]] std::vector<ShardedTensor> sharded_tensors() const override;
};

/// Holder of a `RowParallelLinearImpl`, as LibTorch's modules have.
TORCH_MODULE(RowParallelLinear);

}  // namespace lockstep::nn
