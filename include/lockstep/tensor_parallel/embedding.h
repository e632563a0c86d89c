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

/// Options of `VocabParallelEmbedding`. Sizes are those of the full table.
///
/// Thread-safety: a value.
struct LOCKSTEP_API VocabParallelEmbeddingOptions {
  /// A table of `num_embeddings` rows of `embedding_dim`, whose rows the ranks of `group` share.
  VocabParallelEmbeddingOptions(std::int64_t num_embeddings, std::int64_t embedding_dim,
                                std::shared_ptr<ProcessGroup> group)
      : num_embeddings_(num_embeddings), embedding_dim_(embedding_dim), group_(std::move(group)) {}

  /// Rows of the full table.
  TORCH_ARG(std::int64_t, num_embeddings);
  /// Columns.
  TORCH_ARG(std::int64_t, embedding_dim);
  /// The ranks that share the rows.
  TORCH_ARG(std::shared_ptr<ProcessGroup>, group);
  /// Whether each rank keeps its part of the first dimension of the result only, for a sequence
  /// that is cut.
  TORCH_ARG(bool, sequence_parallel) = false;
};

/// A table of embeddings of which each rank has some rows: {num_embeddings / ranks, embedding_dim}.
/// Where `num_embeddings` is no multiple of the ranks, as GPT-2's 50257 tokens, the first
/// `num_embeddings % ranks` of them have one row more. A rank has zeros for tokens of other ranks,
/// and the results are added.
///
/// The start is that of `torch::nn::Embedding` with the same seed, whatever the number of ranks.
/// `weight` may also be that of a last layer (`torch::linear` with `weight` gives this rank's
/// logits): the input of that layer goes through `tensor_parallel::copy_to`. A
/// `VocabParallelCrossEntropy` of logits that the ranks do not share equally is told `classes`, and
/// `gather_logits` puts such logits together.
///
/// Shapes: tokens int64 {*}, the same on all ranks; output {*, embedding_dim}.
/// Blocks: the calling thread in forward; with `sequence_parallel` in backward, too.
/// Collective: forward and backward.
/// Thread-safety: as its group's, one thread at a time; on a device, backward runs in autograd's
/// thread.
/// Throws: `c10::Error` for fewer embeddings than ranks, and for a token that the table does not
/// have (on a CUDA device, as an assertion there, as with `torch::nn::Embedding`); what a
/// collective throws. Source: Shoeybi et al., "Megatron-LM", 2019.
class LOCKSTEP_API VocabParallelEmbeddingImpl
    : public torch::nn::Cloneable<VocabParallelEmbeddingImpl>,
      public ShardedModule {
 public:
  /// A new table. Nothing is communicated.
  explicit VocabParallelEmbeddingImpl(VocabParallelEmbeddingOptions options);
  /// A new table with default options.
  VocabParallelEmbeddingImpl(std::int64_t num_embeddings, std::int64_t embedding_dim,
                             std::shared_ptr<ProcessGroup> group)
      : VocabParallelEmbeddingImpl(
            VocabParallelEmbeddingOptions(num_embeddings, embedding_dim, std::move(group))) {}
  /// Draws new values, as the constructor does.
  void reset() override;
  /// Writes the module's name and options.
  void pretty_print(std::ostream& stream) const override;
  /// The rows of `tokens`; shapes, collectives and errors as the class says.
  torch::Tensor forward(const torch::Tensor& tokens);
  /// The logits of all tokens, {*, num_embeddings}, on every rank, of those of this rank's tokens,
  /// as `torch::linear` with `weight` gives them: to choose the next token of a text, for example.
  /// No graph is recorded.
  /// Blocks: the calling thread.
  /// Collective: all ranks of the group call it.
  /// Throws: `c10::Error` for logits of other tokens than this rank's; what a collective throws.
  [[nodiscard]] torch::Tensor gather_logits(const torch::Tensor& logits) const;
  /// The first token of this rank.
  [[nodiscard]] std::int64_t first_token() const;
  /// The weight's rows.
  [[nodiscard]] std::vector<ShardedTensor> sharded_tensors() const override;
  /// The group of the options.
  [[nodiscard]] const std::shared_ptr<ProcessGroup>& tensor_group() const override {
    return options.group();
  }

  VocabParallelEmbeddingOptions options;  ///< as given
  torch::Tensor weight;                   ///< this rank's rows
};

/// Holder of a `VocabParallelEmbeddingImpl`, as LibTorch's modules have.
TORCH_MODULE(VocabParallelEmbedding);

}  // namespace lockstep::nn
