// SPDX-License-Identifier: BSD-3-Clause
// Gradients that the program still holds when their parameters get others, with ranks as threads.
#include <fstream>

#include "scenario/parallel/ddp_test_support.h"

namespace lockstep::testing {
namespace {

enum class KeptKind { InPlace, Copied, Hook, Narrow };
struct KeptCase {
  int ranks;
  KeptKind kind;
};
void PrintTo(const KeptCase& value, std::ostream* out) {
  *out << value.ranks << " ranks, kind " << static_cast<int>(value.kind);
}

/// Gradients of 8 bytes to 16 KiB.
struct ManySizesImpl : torch::nn::Module {
  ManySizesImpl() {
    for (const std::int64_t elements : {2, 8, 63, 64, 1024, 4096, 4096}) {
      const auto name = std::string("p").append(std::to_string(parameters(false).size()));
      register_parameter(name, torch::zeros({elements}));
    }
    unused = register_parameter("unused", torch::zeros({64}));
    fill_parameters(*this);
  }
  torch::Tensor forward(const torch::Tensor& x, bool uses_all) {
    torch::Tensor loss = torch::zeros({});
    for (const auto& parameter : parameters(false)) {
      if (uses_all || !parameter.is_same(unused)) loss = loss + (parameter * x).pow(2).sum();
    }
    return loss;
  }
  torch::Tensor unused;
};
TORCH_MODULE(ManySizes);

/// Tensors, and what they held when they were kept.
class KeptTensors {
 public:
  void keep(const torch::Tensor& tensor) {
    tensors_.push_back(tensor);
    copies_.push_back(tensor.clone());
  }
  void keep_gradients(const torch::nn::Module& module) {
    for (const auto& parameter : module.parameters()) {
      if (parameter.grad().defined()) keep(parameter.grad());
    }
  }
  void expect_unchanged(const std::string& where) const {
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      EXPECT_TRUE(torch::equal(tensors_[i], copies_[i])) << where << ", tensor " << i;
    }
  }

 private:
  std::vector<torch::Tensor> tensors_, copies_;
};

class DdpKeptGradients : public ::testing::TestWithParam<KeptCase> {
 protected:
  static void run(const std::function<void(const Group&)>& body) {
    run_ranks_or_throw(GetParam().ranks, [&](const Group& group) {
      body(group);
      group->close();
    });
  }
  template <typename Net>
  static DistributedDataParallel<Net> wrap(Net net, const Group& group) {
    auto options = Options().bucket_caps_bytes({8 << 10});
    if (GetParam().kind == KeptKind::Copied) options.gradients_in_group_memory(false);
    if (GetParam().kind == KeptKind::Narrow) options.reduce_dtype(torch::kBFloat16);
    DistributedDataParallel<Net> model(std::move(net), group, options);
    if (GetParam().kind == KeptKind::Hook) model->register_communication_hook(average_bucket);
    return model;
  }
  static torch::Tensor scale(const Group& group, int step) {
    return torch::full({1},
                       static_cast<float>(1 + step) + 0.3F * static_cast<float>(group->rank()));
  }
  static void take_step(DistributedDataParallel<ManySizes>& model, const Group& group, int step,
                        bool uses_all = true) {
    model->zero_grad();
    model->forward(scale(group, step), uses_all).backward();
  }
};
INSTANTIATE_TEST_SUITE_P(
    Kinds, DdpKeptGradients,
    ::testing::Values(KeptCase{1, KeptKind::InPlace}, KeptCase{2, KeptKind::InPlace},
                      KeptCase{3, KeptKind::InPlace}, KeptCase{2, KeptKind::Copied},
                      KeptCase{2, KeptKind::Hook}, KeptCase{2, KeptKind::Narrow}));

TEST_P(DdpKeptGradients, KeepTheirValuesAtAnySize) {
  run([](const Group& group) {
    auto model = wrap(ManySizes(), group);
    for (int round = 0; round < 3; ++round) {
      KeptTensors kept;
      for (int step = 0; step < 4; ++step) {
        take_step(model, group, step);
        kept.expect_unchanged(std::string("step ").append(std::to_string(step)));
        kept.keep_gradients(*model->module());
      }
    }
  });
}

TEST_P(DdpKeptGradients, KeepTheirValuesThoughOnlyAViewIsHeld) {
  run([](const Group& group) {
    auto model = wrap(ManySizes(), group);
    KeptTensors kept;
    for (int step = 0; step < 4; ++step) {
      take_step(model, group, step);
      kept.expect_unchanged(std::string("step ").append(std::to_string(step)));
      for (const auto& parameter : model->parameters()) {
        kept.keep(parameter.grad().narrow(0, 1, 1));
      }
    }
  });
}

// Autograd does not know that such a tensor looks at the gradient's memory.
TEST_P(DdpKeptGradients, KeepTheirValuesThoughOnlyTheirDataIsHeld) {
  run([](const Group& group) {
    auto model = wrap(ManySizes(), group);
    KeptTensors kept;
    for (int step = 0; step < 4; ++step) {
      take_step(model, group, step);
      kept.expect_unchanged(std::string("step ").append(std::to_string(step)));
      for (const auto& parameter : model->parameters()) {
        kept.keep(parameter.grad().variable_data());
      }
    }
  });
}

TEST_P(DdpKeptGradients, KeepTheirValuesHoweverManyThereAre) {
  run([](const Group& group) {
    auto model = wrap(ManySizes(), group);
    KeptTensors kept;
    for (int step = 0; step < 12; ++step) {
      take_step(model, group, step);
      kept.keep_gradients(*model->module());
    }
    kept.expect_unchanged("in the end");
  });
}

TEST_P(DdpKeptGradients, GiveTheSameAverages) {
  run([](const Group& group) {
    auto model = wrap(ManySizes(), group);
    auto other = wrap(ManySizes(), group);
    std::vector<torch::Tensor> kept;
    for (int step = 0; step < 12; ++step) {
      for (auto* one : {&model, &other}) {
        (*one)->zero_grad();
        (*one)->forward(scale(group, step), true).backward();
      }
      for (std::size_t i = 0; i < model->parameters().size(); ++i) {
        const auto& gradient = model->parameters()[i].grad();
        EXPECT_TRUE(torch::equal(gradient, other->parameters()[i].grad())) << step << ", " << i;
        kept.push_back(gradient);
      }
    }
  });
}

TEST_P(DdpKeptGradients, KeepTheirValuesWhereTheParameterIsNotUsed) {
  run([](const Group& group) {
    ManySizes net;
    auto model = wrap(net, group);
    model->forward(scale(group, 0), true).backward();
    KeptTensors kept;
    kept.keep(net->unused.grad());
    for (int step = 0; step < 2; ++step) {  // its gradient stays what it was
      const auto before = net->unused.grad();
      model->forward(scale(group, step), false).backward();
      EXPECT_TRUE(net->unused.grad().is_same(before));
    }
    kept.expect_unchanged("still the parameter's");
    for (int step = 0; step < 2; ++step) {
      take_step(model, group, step, false);
    }
    kept.expect_unchanged("no longer the parameter's");
  });
}

// Accumulates as autograd does, which adds in place.
TEST_P(DdpKeptGradients, FollowTheParameterAsLongAsTheyAreItsOwn) {
  if (GetParam().kind == KeptKind::Narrow) return;  // the average of another dtype is a new tensor
  run([](const Group& group) {
    auto model = wrap(ManySizes(), group);
    model->forward(scale(group, 0), true).backward();
    take_step(model, group, 0);
    std::vector<torch::Tensor> held;
    for (const auto& parameter : model->parameters()) held.push_back(parameter.grad());
    model->zero_grad(/*set_to_none=*/false);
    model->forward(scale(group, 1), true).backward();
    for (std::size_t i = 0; i < held.size(); ++i) {
      EXPECT_TRUE(torch::equal(held[i], model->parameters()[i].grad())) << "parameter " << i;
    }
  });
}

TEST_P(DdpKeptGradients, KeepTheirValuesWhenRanksJoinAndBucketsChange) {
  run([](const Group& group) {
    ManySizes net;
    auto model = wrap(net, group);
    KeptTensors kept;
    for (int step = 0; step < 2 + group->rank(); ++step) {
      take_step(model, group, step);
      kept.keep_gradients(*net);
    }
    model->join([] {});
    kept.expect_unchanged("after join");
    take_step(model, group, 5);
    kept.keep_gradients(*net);
    net->unused.set_requires_grad(false);
    for (int step = 0; step < 3; ++step) {
      take_step(model, group, step, false);
    }
    kept.expect_unchanged("with other buckets");
  });
}

TEST_P(DdpKeptGradients, KeepTheirValuesWhenAHookComesAndWhenTheModelGoes) {
  run([](const Group& group) {
    ManySizes net;
    KeptTensors kept;
    {
      auto model = wrap(net, group);
      model->forward(scale(group, 0), true).backward();
      kept.keep_gradients(*net);
      model->zero_grad();
      model->register_communication_hook([](ProcessGroup&, const GradientBucketView& bucket) {
        bucket.buffer().fill_(7);
        return make_future(bucket.buffer());
      });
      model->forward(scale(group, 1), true).backward();
      kept.keep_gradients(*net);
    }
    auto model = wrap(net, group);
    take_step(model, group, 2);
    kept.expect_unchanged("in the end");
  });
}

std::int64_t shared_kibibytes() {
  std::ifstream status("/proc/self/status");
  std::string word;
  while (status >> word) {
    if (word == "RssShmem:") break;
  }
  std::int64_t size = 0;
  status >> size;
  return size;
}

// Layers are frozen one by one, and their last gradients stay as they are.
TEST_P(DdpKeptGradients, OfFrozenParametersKeepNoOldMemory) {
  if (GetParam().kind != KeptKind::InPlace || GetParam().ranks != 2) return;
  run([](const Group& group) {
    Sequential net;
    constexpr int kLayers = 8;
    for (int i = 0; i < kLayers; ++i) {
      net->push_back(Linear(torch::nn::LinearOptions(512, 512).bias(false)));  // 1 MiB
    }
    DistributedDataParallel<Sequential> model(net, group);
    const auto x = torch::ones({1, 512});
    KeptTensors kept;
    std::int64_t at_first = 0;
    for (int frozen = 0; frozen + 1 < kLayers; ++frozen) {
      model->forward(x).sum().backward();
      kept.keep(net->parameters()[static_cast<std::size_t>(frozen)].grad());
      group->barrier();
      if (frozen == 0) at_first = shared_kibibytes();
      net->parameters()[static_cast<std::size_t>(frozen)].set_requires_grad(false);
      group->barrier();
    }
    EXPECT_LT(shared_kibibytes(), at_first * 3 / 2);
    kept.expect_unchanged("in the end");
    group->barrier();
  });
}

}  // namespace
}  // namespace lockstep::testing
