// SPDX-License-Identifier: BSD-3-Clause
#include "multirank/parity/nets.h"

namespace lockstep::testing::parity {
namespace {

namespace nn = torch::nn;
using Tensors = std::vector<torch::Tensor>;

constexpr int64_t kClasses = 10;
constexpr int64_t kFeatures = 20;
constexpr int64_t kWords = 30;
constexpr int64_t kWidth = 16;

struct Stack : NetImpl {
  explicit Stack(nn::Sequential layers) : body(register_module("body", std::move(layers))) {}
  Tensors forward(const Batch& batch) override { return {body->forward(batch.at("inputs"))}; }
  nn::Sequential body;
};

std::shared_ptr<NetImpl> stack(nn::Sequential layers) {
  return std::make_shared<Stack>(std::move(layers));
}

nn::Conv2d conv(int64_t in, int64_t out, int64_t stride = 1, int64_t groups = 1, bool bias = true) {
  return nn::Conv2d(
      nn::Conv2dOptions(in, out, 3).stride(stride).padding(1).groups(groups).bias(bias));
}

template <typename Norm>
std::shared_ptr<NetImpl> normalized(Norm&& norm) {
  return stack(nn::Sequential(conv(3, 8, 1, 1, false), norm(8), nn::ReLU(),
                              conv(8, 16, 2, 1, false), norm(16), nn::ReLU(), nn::Flatten(),
                              nn::Linear(256, kClasses)));
}

struct RunningMean : NetImpl {
  RunningMean() {
    mean = register_buffer("mean", torch::zeros({kFeatures}));
    register_module("first", first);
    register_module("last", last);
  }
  Tensors forward(const Batch& batch) override {
    const auto& inputs = batch.at("inputs");
    const auto centred = inputs - mean;
    {
      const torch::NoGradGuard no_grad;
      mean.mul_(0.5).add_(inputs.mean(0) * 0.5);
    }
    return {last(torch::tanh(first(centred)))};
  }
  torch::Tensor mean;
  nn::Linear first{kFeatures, 32}, last{32, kClasses};
};

struct Transformer : NetImpl {
  Transformer() {
    register_module("words", words);
    register_module("block", block);
    register_module("head", head);
  }
  Tensors forward(const Batch& batch) override {
    return {head(block(words(batch.at("words"))).mean(0))};
  }
  nn::Embedding words{kWords, kWidth};
  nn::TransformerEncoderLayer block{
      nn::TransformerEncoderLayerOptions(kWidth, 4).dim_feedforward(32).dropout(0)};
  nn::Linear head{kWidth, kClasses};
};

template <typename Layer>
struct Recurrent : NetImpl {
  explicit Recurrent(Layer layer) : recurrent(register_module("recurrent", std::move(layer))) {
    register_module("head", head);
  }
  Tensors forward(const Batch& batch) override {
    return {head(std::get<0>(recurrent->forward(batch.at("inputs")))[-1])};
  }
  Layer recurrent;
  nn::Linear head{12, kClasses};
};

struct BagOfWords : NetImpl {
  explicit BagOfWords(bool is_sparse)
      : words(register_module(
            "words", nn::Embedding(nn::EmbeddingOptions(kWords, kWidth).sparse(is_sparse)))) {
    register_module("head", head);
  }
  Tensors forward(const Batch& batch) override {
    return {head(torch::tanh(words(batch.at("words")).mean(0)))};
  }
  nn::Embedding words;
  nn::Linear head{kWidth, kClasses};
};

// LibTorch's Linear cannot take over a registered weight.
struct TiedLinear : nn::Module {
  explicit TiedLinear(const torch::Tensor& shared) {
    weight = register_parameter("weight", shared);
    bias = register_parameter("bias", torch::zeros({shared.size(0)}));
  }
  torch::Tensor weight, bias;
};

struct Tied : NetImpl {
  Tied() {
    register_module("words", words);
    register_module("middle", middle);
    head = register_module("head", std::make_shared<TiedLinear>(words->weight));
  }
  Tensors forward(const Batch& batch) override {
    const auto hidden = torch::tanh(middle(words(batch.at("words")).mean(0)));
    return {nn::functional::linear(hidden, head->weight, head->bias)};
  }
  nn::Embedding words{kWords, kWidth};
  nn::Linear middle{kWidth, kWidth};
  std::shared_ptr<TiedLinear> head;
};

struct Branches : NetImpl {
  explicit Branches(int64_t rank) : rank_(rank) {
    register_module("left", left);
    register_module("right", right);
    register_module("never", never);
    register_module("head", head);
  }
  Tensors forward(const Batch& batch) override {
    const auto turn = batch.find("turn");
    const int64_t place = rank_ + (turn == batch.end() ? 0 : turn->second.item<int64_t>());
    auto& branch = place % 2 == 0 ? left : right;
    return {head(torch::tanh(branch(batch.at("inputs"))))};
  }
  nn::Linear left{kFeatures, 16}, right{kFeatures, 16}, never{kFeatures, 16}, head{16, kClasses};

 private:
  int64_t rank_;
};

struct UnusedLayer : NetImpl {
  UnusedLayer() {
    register_module("first", first);
    register_module("never", never);
    register_module("last", last);
  }
  Tensors forward(const Batch& batch) override {
    return {last(torch::tanh(first(batch.at("inputs"))))};
  }
  nn::Linear first{kFeatures, 32}, never{32, 32}, last{32, kClasses};
};

struct SeveralOutputs : NetImpl {
  SeveralOutputs() {
    register_module("body", body);
    register_module("classes", classes);
    register_module("value", value);
  }
  Tensors forward(const Batch& batch) override {
    const auto hidden = torch::tanh(body(batch.at("inputs")));
    return {classes(hidden), value(hidden), hidden};
  }
  nn::Linear body{kFeatures, 32}, classes{32, kClasses}, value{32, 1};
};

struct Checkpointed : NetImpl {
  Checkpointed() {
    register_module("first", first);
    register_module("middle", middle);
    register_module("last", last);
  }
  Tensors forward(const Batch& batch) override {
    return {last(middle->forward(torch::tanh(first(batch.at("inputs")))))};
  }
  nn::Linear first{kFeatures, 32}, last{32, kClasses};
  nn::Sequential middle{nn::Linear(32, 32), nn::Tanh(), nn::Linear(32, 32)};
};

struct Complex : NetImpl {
  Complex() {
    first = register_parameter("first", torch::zeros({kFeatures, 24}, torch::kComplexFloat));
    last = register_parameter("last", torch::zeros({24, kClasses}, torch::kComplexFloat));
  }
  Tensors forward(const Batch& batch) override {
    const auto hidden = torch::tanh(batch.at("inputs").to(torch::kComplexFloat).matmul(first));
    return {hidden.matmul(last).abs()};
  }
  torch::Tensor first, last;
};

struct OddShapes : NetImpl {
  OddShapes() {
    first = register_parameter("first", torch::zeros({kWidth, kFeatures}).t());
    scale = register_parameter("scale", torch::zeros({}));
    register_module("again", again);
    register_module("last", last);
  }
  Tensors forward(const Batch& batch) override {
    auto hidden = batch.at("inputs").matmul(first) * scale;
    for (int i = 0; i < 3; ++i) hidden = torch::tanh(again(hidden));
    return {last(hidden)};
  }
  torch::Tensor first, scale;
  nn::Linear again{kWidth, kWidth}, last{kWidth, kClasses};
};

struct TwoDtypes : NetImpl {
  TwoDtypes() {
    register_module("first", first);
    register_module("last", last)->to(torch::kDouble);
  }
  Tensors forward(const Batch& batch) override {
    return {last(torch::tanh(first(batch.at("inputs"))).to(torch::kDouble))};
  }
  nn::Linear first{kFeatures, 32}, last{32, kClasses};
};

}  // namespace

std::shared_ptr<NetImpl> mlp(int) {
  return stack(nn::Sequential(nn::Linear(kFeatures, 32), nn::Tanh(), nn::Linear(32, 24), nn::ReLU(),
                              nn::Linear(24, kClasses)));
}

std::shared_ptr<NetImpl> layer_norm(int) {
  return stack(nn::Sequential(nn::Linear(kFeatures, 32), nn::LayerNorm(nn::LayerNormOptions({32})),
                              nn::GELU(), nn::Linear(32, kClasses)));
}

std::shared_ptr<NetImpl> first_layer_frozen(int rank) {
  auto net = mlp(rank);
  for (auto& item : net->named_parameters()) {
    if (item.key().rfind("body.0.", 0) == 0) item.value().set_requires_grad(false);
  }
  return net;
}

std::shared_ptr<NetImpl> convolutional(int) {
  return stack(nn::Sequential(conv(3, 8), nn::ReLU(), conv(8, 16, 2), nn::ReLU(), nn::Flatten(),
                              nn::Linear(256, kClasses)));
}

std::shared_ptr<NetImpl> depthwise(int) {
  return stack(nn::Sequential(conv(3, 8, 2), nn::ReLU(), conv(8, 8, 1, 8),
                              nn::Conv2d(nn::Conv2dOptions(8, 12, 1)), nn::ReLU(),
                              nn::AdaptiveAvgPool2d(nn::AdaptiveAvgPool2dOptions(1)), nn::Flatten(),
                              nn::Linear(12, kClasses)));
}

std::shared_ptr<NetImpl> batch_norm(int) {
  return normalized([](int64_t channels) { return nn::BatchNorm2d(channels); });
}

std::shared_ptr<NetImpl> group_norm(int) {
  return normalized(
      [](int64_t channels) { return nn::GroupNorm(nn::GroupNormOptions(4, channels)); });
}

std::shared_ptr<NetImpl> running_mean(int) {
  return std::make_shared<RunningMean>();
}

std::shared_ptr<NetImpl> transformer(int) {
  return std::make_shared<Transformer>();
}

std::shared_ptr<NetImpl> lstm(int) {
  return std::make_shared<Recurrent<nn::LSTM>>(nn::LSTM(nn::LSTMOptions(kWidth, 12).num_layers(2)));
}

std::shared_ptr<NetImpl> gru(int) {
  return std::make_shared<Recurrent<nn::GRU>>(nn::GRU(nn::GRUOptions(kWidth, 12)));
}

std::shared_ptr<NetImpl> bag_of_words(int) {
  return std::make_shared<BagOfWords>(false);
}

std::shared_ptr<NetImpl> sparse_bag_of_words(int) {
  return std::make_shared<BagOfWords>(true);
}

std::shared_ptr<NetImpl> tied(int) {
  return std::make_shared<Tied>();
}

std::shared_ptr<NetImpl> branches(int rank) {
  return std::make_shared<Branches>(rank);
}

std::shared_ptr<NetImpl> unused_layer(int) {
  return std::make_shared<UnusedLayer>();
}

std::shared_ptr<NetImpl> several_outputs(int) {
  return std::make_shared<SeveralOutputs>();
}

std::shared_ptr<NetImpl> checkpointed(int) {
  return std::make_shared<Checkpointed>();
}

std::shared_ptr<NetImpl> complex_net(int) {
  return std::make_shared<Complex>();
}

std::shared_ptr<NetImpl> odd_shapes(int) {
  return std::make_shared<OddShapes>();
}

std::shared_ptr<NetImpl> two_dtypes(int) {
  return std::make_shared<TwoDtypes>();
}

torch::Tensor classify(const Forward& forward, const Batch& batch) {
  return nn::functional::cross_entropy(forward(batch)[0], batch.at("labels"));
}

torch::Tensor classify_and_measure(const Forward& forward, const Batch& batch) {
  const auto outputs = forward(batch);
  return nn::functional::cross_entropy(outputs[0], batch.at("labels")) + outputs[1].square().mean();
}

torch::Tensor compare_two(const Forward& forward, const Batch& batch) {
  const auto other = forward({{"inputs", batch.at("others")}})[0];
  return classify(forward, batch) + 0.1 * (forward(batch)[0] - other).square().mean();
}

torch::Tensor look_first(const Forward& forward, const Batch& batch) {
  {
    const torch::NoGradGuard no_grad;
    forward(batch);
  }
  return classify(forward, batch);
}

}  // namespace lockstep::testing::parity
