// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/TensorOperators.h>
#include <ATen/ops/_assert_async.h>
#include <ATen/ops/embedding.h>
#include <lockstep/tensor_parallel/embedding.h>
#include <lockstep/tensor_parallel/regions.h>
#include <torch/nn/modules/embedding.h>

#include <string>
#include <utility>

#include "tensor_parallel/collective_step.h"
#include "tensor_parallel/shards.h"
#include "tensor_parallel/share.h"

namespace lockstep::nn {

VocabParallelEmbeddingImpl::VocabParallelEmbeddingImpl(VocabParallelEmbeddingOptions its_options)
    : options(std::move(its_options)) {
  TORCH_CHECK(options.group() != nullptr, "VocabParallelEmbedding: the process group is null");
  TORCH_CHECK(options.embedding_dim() > 0, "VocabParallelEmbedding: embedding_dim is ",
              options.embedding_dim(), "; it must be positive");
  TORCH_CHECK(options.num_embeddings() >= options.group()->size(),
              "VocabParallelEmbedding: num_embeddings is ", options.num_embeddings(),
              "; it must be at least 1 for each of the ", options.group()->size(), " ranks");
  VocabParallelEmbeddingImpl::reset();
}

void VocabParallelEmbeddingImpl::reset() {
  const torch::nn::Embedding full(options.num_embeddings(), options.embedding_dim());
  const at::NoGradGuard no_grad;
  const ProcessGroup& group = *options.group();
  const ShardedTensor how = VocabParallelEmbeddingImpl::sharded_tensors().front();
  weight = register_parameter("weight", cut_shard(full->weight, how, group.rank(), group.size()));
}

void VocabParallelEmbeddingImpl::pretty_print(std::ostream& stream) const {
  stream << "lockstep::nn::VocabParallelEmbedding(num_embeddings=" << options.num_embeddings()
         << ", embedding_dim=" << options.embedding_dim() << ", ranks=" << options.group()->size()
         << ')';
}

std::int64_t VocabParallelEmbeddingImpl::first_token() const {
  return share_of(options.num_embeddings(), options.group()->rank(), options.group()->size()).first;
}

torch::Tensor VocabParallelEmbeddingImpl::forward(const torch::Tensor& tokens) {
  TORCH_CHECK(tokens.defined() && tokens.scalar_type() == at::kLong,
              "VocabParallelEmbedding: expected int64 tokens, got ",
              tokens.defined() ? c10::toString(tokens.scalar_type()) : "nothing");
  // Every rank checks all tokens, so that all refuse the same ones.
  if (tokens.is_cpu() && tokens.numel() > 0) {
    const auto [least, most] = tokens.aminmax();
    TORCH_CHECK(
        least.item<std::int64_t>() >= 0 && most.item<std::int64_t>() < options.num_embeddings(),
        "VocabParallelEmbedding: a token is ",
        least.item<std::int64_t>() < 0 ? least.item<std::int64_t>() : most.item<std::int64_t>(),
        "; tokens are from 0 to ", options.num_embeddings() - 1);
  } else if (tokens.is_cuda()) {
    at::_assert_async(tokens.ge(0).logical_and(tokens.lt(options.num_embeddings())).all(),
                      "VocabParallelEmbedding: a token that the table does not have");
  }
  const torch::Tensor own = tokens - first_token();
  const torch::Tensor is_elsewhere = own.lt(0).logical_or(own.ge(weight.size(0)));
  const torch::Tensor rows = at::embedding(weight, own.masked_fill(is_elsewhere, 0))
                                 .masked_fill(is_elsewhere.unsqueeze(-1), 0);
  return options.sequence_parallel()
             ? tensor_parallel::reduce_scatter_to_sequence(rows, options.group())
             : tensor_parallel::reduce_from(rows, options.group());
}

torch::Tensor VocabParallelEmbeddingImpl::gather_logits(const torch::Tensor& logits) const {
  TORCH_CHECK(logits.defined() && logits.dim() > 0 && logits.size(-1) == weight.size(0),
              "VocabParallelEmbedding: gather_logits expected logits of this rank's ",
              weight.size(0), " tokens, got ",
              logits.defined() ? c10::str(logits.sizes()) : std::string("nothing"));
  const at::NoGradGuard no_grad;
  ProcessGroup& group = *options.group();
  const ShardedTensor how{"logits", logits.dim() - 1, 1, options.num_embeddings()};
  const torch::Tensor own = pad_shard(logits.detach().contiguous(), how, group.size());
  const auto scope = group.with(CallOptions().name(call_name("gather_logits", own.sizes())));
  const torch::Tensor all = rows_for(own, group.size());
  group.all_gather(all, own).wait();
  return join_shards(all, how);
}

std::vector<ShardedTensor> VocabParallelEmbeddingImpl::sharded_tensors() const {
  return {{"weight", 0, 1, options.num_embeddings()}};
}

}  // namespace lockstep::nn
