// SPDX-License-Identifier: BSD-3-Clause
#include <optional>

#include "tensor_ranks.h"

namespace lockstep::testing {
namespace {

constexpr std::int64_t kWidth = 24, kHeads = 12, kVocabulary = 49, kLength = 12, kBatch = 4;
constexpr double kRelative = 1e-5;

/// Causal attention over {length, batch, 3 * width of these heads}.
torch::Tensor attend(const torch::Tensor& qkv, std::int64_t heads) {
  const auto parts = qkv.chunk(3, -1);
  const auto heads_of = [&](const torch::Tensor& part) {
    return part.reshape({part.size(0), part.size(1), heads, kWidth / kHeads}).permute({1, 2, 0, 3});
  };
  const auto seen = at::scaled_dot_product_attention(heads_of(parts[0]), heads_of(parts[1]),
                                                     heads_of(parts[2]), {}, 0.0, true);
  return seen.permute({2, 0, 1, 3}).flatten(2);
}

/// How a language model is built: of LibTorch's layers, or of layers that ranks share.
struct Shape {
  GroupPointer group;  // null: LibTorch's layers
  bool is_cut = false;
  int layers = 1;
};

torch::nn::AnyModule norm_of(const Shape& shape) {
  const auto options = torch::nn::LayerNormOptions({kWidth});
  if (shape.is_cut)
    return torch::nn::AnyModule(nn::SequenceParallelLayerNorm(options, shape.group));
  return torch::nn::AnyModule(torch::nn::LayerNorm(options));
}

torch::nn::AnyModule column_of(const Shape& shape, std::int64_t out, std::int64_t parts = 1) {
  if (!shape.group) return torch::nn::AnyModule(torch::nn::Linear(kWidth, out));
  return torch::nn::AnyModule(
      nn::ColumnParallelLinear(nn::ParallelLinearOptions(kWidth, out, shape.group)
                                   .parts(parts)
                                   .sequence_parallel(shape.is_cut)));
}

torch::nn::AnyModule row_of(const Shape& shape, std::int64_t in) {
  if (!shape.group) return torch::nn::AnyModule(torch::nn::Linear(in, kWidth));
  return torch::nn::AnyModule(nn::RowParallelLinear(
      nn::ParallelLinearOptions(in, kWidth, shape.group).sequence_parallel(shape.is_cut)));
}

struct GptBlockImpl : torch::nn::Module {
  explicit GptBlockImpl(const Shape& shape)
      : heads(kHeads / (shape.group ? shape.group->size() : 1)) {
    ln_1 = add("ln_1", norm_of(shape));
    qkv = add("qkv", column_of(shape, 3 * kWidth, 3));
    proj = add("proj", row_of(shape, kWidth));
    ln_2 = add("ln_2", norm_of(shape));
    up = add("up", column_of(shape, 4 * kWidth));
    down = add("down", row_of(shape, 4 * kWidth));
  }
  torch::nn::AnyModule add(const std::string& name, torch::nn::AnyModule module) {
    register_module(name, module.ptr());
    return module;
  }
  torch::Tensor forward(torch::Tensor x) {
    using torch::Tensor;
    x = x + proj.forward<Tensor>(attend(qkv.forward<Tensor>(ln_1.forward<Tensor>(x)), heads));
    return x + down.forward<Tensor>(torch::gelu(up.forward<Tensor>(ln_2.forward<Tensor>(x))));
  }
  std::int64_t heads;
  torch::nn::AnyModule ln_1, qkv, proj, ln_2, up, down;
};
TORCH_MODULE(GptBlock);

/// Tokens {length, batch} of inputs and targets to the mean loss.
struct LanguageModelImpl : torch::nn::Module {
  explicit LanguageModelImpl(const Shape& its_shape) : shape(its_shape) {
    if (shape.group) {
      split_table = register_module(
          "table", nn::VocabParallelEmbedding(
                       nn::VocabParallelEmbeddingOptions(kVocabulary, kWidth, shape.group)
                           .sequence_parallel(shape.is_cut)));
      loss = nn::VocabParallelCrossEntropy(
          nn::VocabParallelCrossEntropyOptions(shape.group).classes(kVocabulary));
    } else {
      table = register_module("table", torch::nn::Embedding(kVocabulary, kWidth));
    }
    for (int i = 0; i < shape.layers; ++i) blocks->push_back(GptBlock(shape));
    register_module("blocks", blocks);
    ln_f = norm_of(shape);
    register_module("ln_f", ln_f.ptr());
  }
  torch::Tensor forward(const torch::Tensor& tokens, const torch::Tensor& targets) {
    auto x = shape.group ? split_table(tokens) : table(tokens);
    for (const auto& block : *blocks) x = block->as<GptBlockImpl>()->forward(x);
    x = ln_f.forward<torch::Tensor>(x);
    if (!shape.group) {
      return torch::nn::functional::cross_entropy(torch::linear(x, table->weight).flatten(0, 1),
                                                  targets.flatten());
    }
    x = shape.is_cut ? lockstep::tensor_parallel::gather_from_sequence(x, shape.group)
                     : lockstep::tensor_parallel::copy_to(x, shape.group);
    return loss(torch::linear(x, split_table->weight), targets);
  }
  Shape shape;
  torch::nn::Embedding table{nullptr};
  nn::VocabParallelEmbedding split_table{nullptr};
  nn::VocabParallelCrossEntropy loss{nullptr};
  torch::nn::ModuleList blocks;
  torch::nn::AnyModule ln_f;
};
TORCH_MODULE(LanguageModel);

torch::Tensor some_tokens(std::int64_t seed) {
  return (torch::arange(kLength * kBatch, torch::kLong) * 31 + seed)
      .remainder(kVocabulary)
      .view({kLength, kBatch});
}

LanguageModel plain_language_model() {
  return with_seed(11, [] { return LanguageModel(Shape{nullptr, false, 2}); });
}

class ParallelGpt : public TensorRanks {};
INSTANTIATE_TEST_SUITE_P(Ranks, ParallelGpt, ::testing::Values(1, 2, 3, 4));

TEST_P(ParallelGpt, TrainsAsTheUnsplitOne) {
  run([](const GroupPointer& group) {
    for (const bool is_cut : {false, true}) {
      SCOPED_TRACE(is_cut ? "sequence parallel" : "tensor parallel");
      auto plain = plain_language_model();
      auto split = with_seed(11, [&] { return LanguageModel(Shape{group, is_cut, 2}); });
      // The same seed is the same start: nothing is loaded.
      expect_same(nn::full_state(split), training::state_of(*plain), 0);
      optim::SGD plain_step(plain->parameters(), optim::SGDOptions(0.5));
      optim::SGD split_step(split->parameters(), optim::SGDOptions(0.5));
      for (int step = 0; step < 3; ++step) {
        plain->zero_grad();
        split->zero_grad();
        const auto expected = plain->forward(some_tokens(step), some_tokens(step + 5));
        const auto actual = split->forward(some_tokens(step), some_tokens(step + 5));
        EXPECT_NEAR(actual.item<double>(), expected.item<double>(), kRelative * 4);
        expected.backward();
        actual.backward();
        if (step == 0) expect_same(full_gradients(*split), gradients_of(*plain), kRelative);
        (void)optim::clip_grad_norm_(plain->parameters(), 1.0);
        (void)nn::clip_grad_norm_(split, 1.0);
        plain_step.step();
        split_step.step();
      }
      expect_same(nn::full_state(split), training::state_of(*plain), kRelative);
    }
  });
}

/// With `DistributedDataParallel` outside: the replicas have half of the batch each.
TEST(ParallelGptWithReplicas, TrainsAsTheUnsplitOneOnTheWholeBatch) {
  for (const int tensor : {1, 2}) {
    for (const bool is_cut : {false, true}) {
      run_ranks_or_throw(2 * tensor, [&](const GroupPointer& world) {
        Mesh mesh(world, {{"data", 2}, {"tensor", tensor}});
        const auto& data = mesh.group("data");
        const auto& group = mesh.group("tensor");
        auto plain = plain_language_model();
        auto split = with_seed(11, [&] { return LanguageModel(Shape{group, is_cut, 2}); });
        DistributedDataParallel<LanguageModel> model(split, data);
        const auto tokens = some_tokens(1), targets = some_tokens(6);
        plain->forward(tokens, targets).backward();
        const auto part = [&](const torch::Tensor& all) {
          return all.chunk(2, 1)[static_cast<std::size_t>(data->rank())].contiguous();
        };
        model->forward(part(tokens), part(targets)).backward();
        expect_same(full_gradients(*split), gradients_of(*plain), kRelative);
        mesh.close();
      });
    }
  }
}

}  // namespace
}  // namespace lockstep::testing
