// SPDX-License-Identifier: BSD-3-Clause
// Gradients that autograd makes in registered memory, with ranks as threads.
#include "parallel/buckets/arena_allocator.h"
#include "scenario/parallel/ddp_test_support.h"

namespace lockstep::testing {
namespace {

constexpr std::int64_t kWidth = 64;  // weights of 16 KiB, biases of 256 bytes

Sequential make_wide_net() {
  Sequential net(Linear(kWidth, kWidth), torch::nn::Tanh(), Linear(kWidth, kWidth),
                 torch::nn::Tanh(), Linear(kWidth, kWidth));
  fill_parameters(*net);
  return net;
}

torch::Tensor input(int rank, int step, std::int64_t samples = 5) {
  const auto places = torch::arange(samples * kWidth, torch::kFloat);
  return torch::sin(places * 0.13F + static_cast<float>(7 * step + 3 * rank))
      .view({samples, kWidth});
}

class DdpInPlace : public ::testing::TestWithParam<int> {
 protected:
  /// Runs `steps` of both models, one whose gradients lie in registered memory and one whose are
  /// copied into it, and compares all parameters' bits after each.
  template <typename Step>
  static void compare(const Group& group, const Step& step, int steps = 4,
                      const Options& options = {}) {
    DistributedDataParallel<Sequential> in_place(make_wide_net(), group, options);
    auto copying_options = options;
    DistributedDataParallel<Sequential> copying(make_wide_net(), group,
                                                copying_options.gradients_in_group_memory(false));
    for (int number = 0; number < steps; ++number) {
      for (auto* model : {&in_place, &copying}) step(*model, number);
      const auto own = in_place->parameters();
      const auto others = copying->parameters();
      for (std::size_t i = 0; i < own.size(); ++i) {
        EXPECT_TRUE(torch::equal(own[i], others[i])) << "parameter " << i << ", step " << number;
        EXPECT_EQ(own[i].grad().defined(), others[i].grad().defined());
      }
    }
  }

  static void descend(DistributedDataParallel<Sequential>& model) {
    const torch::NoGradGuard no_grad;
    for (auto& parameter : model->parameters()) {
      if (parameter.grad().defined()) parameter.sub_(parameter.grad(), 0.1);
    }
  }
};
INSTANTIATE_TEST_SUITE_P(WorldSizes, DdpInPlace, ::testing::Values(2, 3));

TEST_P(DdpInPlace, NothingIsCopied) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    DistributedDataParallel<Sequential> model(make_wide_net(), group);
    std::vector<const void*> places;
    for (int step = 0; step < 3; ++step) {
      model->zero_grad();
      model->forward(input(group->rank(), step)).pow(2).sum().backward();
      EXPECT_EQ(model->statistics().copied_bytes, 0u) << "step " << step;
      places.push_back(model->parameters()[0].grad().data_ptr());
    }
    EXPECT_EQ(places[1], places[2]) << "memory is used again";
    DistributedDataParallel<Sequential> copying(make_wide_net(), group,
                                                Options().gradients_in_group_memory(false));
    for (int step = 0; step < 2; ++step) {
      copying->zero_grad();
      copying->forward(input(group->rank(), 0)).pow(2).sum().backward();
      EXPECT_EQ(copying->statistics().copied_bytes, 3u * (kWidth + 1) * kWidth * 4) << step;
    }
    group->close();
  });
}

TEST_P(DdpInPlace, GivesTheBitsOfCopies) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    compare(group, [&](auto& model, int number) {
      model->zero_grad();
      model->forward(input(group->rank(), number)).pow(2).sum().backward();
      descend(model);
    });
    group->close();
  });
}

TEST_P(DdpInPlace, LeavesAloneWhatHooksOfTheProgramKeep) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    // As many samples as a weight has rows: tensors of backward are as large as weights' gradients.
    std::vector<torch::Tensor> kept, copies;
    compare(
        group,
        [&](auto& model, int number) {
          model->zero_grad();
          const auto x = input(group->rank(), number, kWidth).requires_grad_(true);
          const auto y = model->forward(x);
          const auto keep = [&](const torch::Tensor& gradient) {
            kept.push_back(gradient);
            copies.push_back(gradient.clone());
          };
          const auto z = torch::tanh(y);
          z.register_hook(keep);
          y.register_hook(keep);
          x.register_hook(keep);
          z.pow(2).sum().backward();
          descend(model);
        },
        6);
    ASSERT_EQ(kept.size(), 36u);
    for (std::size_t i = 0; i < kept.size(); ++i) {
      EXPECT_TRUE(torch::equal(kept[i], copies[i])) << "tensor " << i;
    }
    group->close();
  });
}

TEST_P(DdpInPlace, AccumulatesThere) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    const auto accumulate = [&](auto& model, int number) {
      model->zero_grad(/*set_to_none=*/number % 2 == 0);
      {
        const auto guard = model->no_sync();
        for (int i = 0; i < 2 + group->rank(); ++i) {
          model->forward(input(group->rank(), 10 * number + i)).pow(2).sum().backward();
        }
      }
      model->forward(input(group->rank(), number)).pow(2).sum().backward();
      descend(model);
    };
    compare(group, accumulate);
    DistributedDataParallel<Sequential> model(make_wide_net(), group);
    for (int number = 0; number < 4; ++number) {
      accumulate(model, number);
      EXPECT_EQ(model->statistics().copied_bytes, 0u) << "step " << number;
    }
    group->close();
  });
}

TEST_P(DdpInPlace, GradientsThatTheProgramKeepsDoNotStopIt) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    std::vector<torch::Tensor> kept;
    compare(
        group,
        [&](auto& model, int number) {
          model->zero_grad();
          model->forward(input(group->rank(), number)).pow(2).sum().backward();
          for (const auto& parameter : model->parameters()) kept.push_back(parameter.grad());
          descend(model);
        },
        6);
    group->close();
  });
}

TEST_P(DdpInPlace, GoesOnAfterAnException) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    compare(group, [&](auto& model, int number) {
      model->zero_grad();
      const auto y = model->forward(input(group->rank(), number));
      if (number % 2 == 0) {
        const auto handle = y.register_hook(
            [](const torch::Tensor&) { throw std::runtime_error("a hook of the program"); });
        EXPECT_THROW(y.pow(2).sum().backward(), std::runtime_error);
        y.remove_hook(handle);
      }
      model->zero_grad();
      model->forward(input(group->rank(), number)).pow(2).sum().backward();
      descend(model);
    });
    group->close();
  });
}

TEST_P(DdpInPlace, UnusedAndLateGradients) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    compare(group, [&](auto& model, int number) {
      model->zero_grad();
      // On rank 0 the net runs twice in some backwards, and its last part not at all in others.
      const auto x = input(group->rank(), number);
      auto y = model->forward(x);
      if (group->rank() == 0 && number >= 2) y = model->forward(torch::tanh(y));
      y.pow(2).sum().backward();
      descend(model);
    });
    group->close();
  });
}

TEST_P(DdpInPlace, EndsWithACommunicationHookWhichGetsWholeBuckets) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    compare(group, [&](auto& model, int number) {
      if (number == 2) model->register_communication_hook(average_bucket);
      // Once with a gradient from before the change, which is added to.
      if (number != 2) model->zero_grad();
      model->forward(input(group->rank(), number)).pow(2).sum().backward();
      descend(model);
      if (number == 3) {
        EXPECT_GT(model->statistics().copied_bytes, 0u);
      }
    });
    group->close();
  });
}

// A gradient is the program's to rearrange in place.
TEST_P(DdpInPlace, AGradientThatTheProgramTransposesOnOneRankIsAveragedAsWhatItIs) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    for (const bool is_in_place : {true, false}) {
      for (const bool is_kept : {true, false}) {
        DistributedDataParallel<Sequential> model(make_wide_net(), group,
                                                  Options().gradients_in_group_memory(is_in_place));
        const auto backward = [&] {
          model->forward(input(group->rank(), 0)).pow(2).sum().backward();
        };
        auto weight = model->parameters()[0];
        backward();
        backward();  // the buckets do not change any more
        model->zero_grad();
        backward();
        const auto once = weight.grad().clone();
        if (group->rank() == 0) weight.mutable_grad().transpose_(0, 1);
        if (!is_kept) model->zero_grad();
        backward();
        const auto ranks = static_cast<float>(group->size());
        const auto last = (once.t() + once * (ranks - 1)) / ranks;
        EXPECT_TRUE(torch::allclose(weight.grad(), is_kept ? last + once : once, 1e-4, 1e-5))
            << is_in_place << ", " << is_kept;
        EXPECT_TRUE(weight.grad().is_contiguous());
      }
    }
    group->close();
  });
}

/// A table of positions whose gradient is a view of what the layers below still have to read.
struct PositionsImpl : torch::nn::Module {
  PositionsImpl() {
    register_module("first", first);
    register_module("last", last);
    positions = register_parameter("positions", torch::zeros({kWidth, kWidth}));
    more_positions = register_parameter("more_positions", torch::zeros({kWidth * kWidth}));
    fill_parameters(*this);
  }
  torch::Tensor forward(const torch::Tensor& x) {
    const auto y =
        torch::tanh(first(x)) + positions.unsqueeze(0) + more_positions.view({1, kWidth, kWidth});
    return last(torch::tanh(y));
  }
  Linear first{kWidth, kWidth}, last{kWidth, kWidth};
  torch::Tensor positions, more_positions;
};
TORCH_MODULE(Positions);

TEST_P(DdpInPlace, LeavesAloneMemoryThatOthersLookAt) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    for (const auto averaging : {GradientAveraging::ActiveRanks, GradientAveraging::Samples}) {
      const auto options =
          Options().bucket_caps_bytes({1024}).averaging(averaging).learn_order(false);
      DistributedDataParallel<Positions> in_place(Positions(), group, options);
      auto copying_options = options;
      DistributedDataParallel<Positions> copying(Positions(), group,
                                                 copying_options.gradients_in_group_memory(false));
      for (int step = 0; step < 4; ++step) {
        for (auto* model : {&in_place, &copying}) {
          (*model)->zero_grad();
          const auto x = input(group->rank(), step, kWidth).unsqueeze(0);
          (*model)->set_samples(group->rank() + 1);
          (*model)->forward(x).pow(2).sum().backward();
        }
        for (std::size_t i = 0; i < in_place->parameters().size(); ++i) {
          EXPECT_TRUE(
              torch::equal(in_place->parameters()[i].grad(), copying->parameters()[i].grad()))
              << "parameter " << i << ", step " << step;
        }
      }
      EXPECT_GT(in_place->statistics().copied_bytes, 0u);
      EXPECT_LT(in_place->statistics().copied_bytes, copying->statistics().copied_bytes);
    }
    group->close();
  });
}

/// Its middle part gets gradients of further backwards within the backward, as often as asked.
struct RepeatedImpl : torch::nn::Module {
  RepeatedImpl() {
    register_module("first", first);
    register_module("middle", middle);
    fill_parameters(*this);
  }
  torch::Tensor forward(const torch::Tensor& x, int times) {
    const auto hidden = first(x);
    for (int i = 1; i < times; ++i) {
      hidden.register_hook([this, x](const torch::Tensor&) {
        const torch::AutoGradMode with_gradients(true);
        torch::tanh(middle(x)).sum().backward();
      });
    }
    return torch::tanh(middle(hidden));
  }
  Linear first{kWidth, kWidth}, middle{kWidth, kWidth};
};
TORCH_MODULE(Repeated);

TEST_P(DdpInPlace, LateGradientsOfSomeRanks) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    const auto options = Options().bucket_caps_bytes({1024});
    DistributedDataParallel<Repeated> in_place(Repeated(), group, options);
    auto copying_options = options;
    DistributedDataParallel<Repeated> copying(Repeated(), group,
                                              copying_options.gradients_in_group_memory(false));
    for (int step = 0; step < 3; ++step) {
      const int times = group->rank() == 0 ? 2 + step : 1;
      for (auto* model : {&in_place, &copying}) {
        (*model)->zero_grad();
        (*model)->forward(input(group->rank(), step), times).pow(2).sum().backward();
        EXPECT_FALSE((*model)->statistics().late_parameters.empty()) << step;
      }
      for (std::size_t i = 0; i < in_place->parameters().size(); ++i) {
        EXPECT_TRUE(torch::equal(in_place->parameters()[i].grad(), copying->parameters()[i].grad()))
            << "parameter " << i << ", step " << step;
      }
    }
    group->close();
  });
}

TEST_P(DdpInPlace, LateGradientsOfAStaticGraphAreRefusedByName) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    DistributedDataParallel<Repeated> model(Repeated(), group,
                                            Options().bucket_caps_bytes({1024}).static_graph(true));
    model->forward(input(group->rank(), 0), 1).pow(2).sum().backward();
    const auto loss = model->forward(input(group->rank(), 1), 2).pow(2).sum();
    expect_error_everywhere(group, "got more gradients than in", [&] { loss.backward(); });
  });
}

TEST_P(DdpInPlace, TheProgramsOwnCollectivesTakeGradientsAsOrdinaryTensors) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    DistributedDataParallel<Sequential> model(make_wide_net(), group);
    // In this order they lie elsewhere on each rank.
    std::vector<torch::Tensor> kept;
    for (int i = 0; i <= group->rank(); ++i) {
      const auto guard = model->no_sync();
      model->zero_grad();
      model->forward(input(group->rank(), 0)).pow(2).sum().backward();
      if (i < group->rank()) kept.push_back(model->parameters()[0].grad());
    }
    auto expected = model->parameters()[0].grad().clone();
    group->all_reduce(expected, ReduceOp::Max).wait();
    group->all_reduce(model->parameters()[0].grad(), ReduceOp::Max).wait();
    EXPECT_TRUE(torch::equal(model->parameters()[0].grad(), expected));
    group->close();
  });
}

TEST_P(DdpInPlace, NothingIsAllocatedThereWhenBackwardIsOver) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    DistributedDataParallel<Sequential> model(make_wide_net(), group);
    std::vector<torch::Tensor> states;  // as an optimizer makes them at its first step
    {
      const auto guard = model->no_sync();
      model->forward(input(group->rank(), 0)).pow(2).sum().backward();
      for (const auto& parameter : model->parameters())
        states.push_back(torch::zeros_like(parameter));
    }
    const auto y = model->forward(input(group->rank(), 0));
    y.register_hook(
        [](const torch::Tensor&) { throw std::runtime_error("a hook of the program"); });
    EXPECT_THROW(y.pow(2).sum().backward(), std::runtime_error);
    for (const auto& parameter : model->parameters())
      states.push_back(torch::zeros_like(parameter));
    for (int step = 0; step < 2; ++step) {
      model->zero_grad();
      model->forward(input(group->rank(), step)).pow(2).sum().backward();
      EXPECT_EQ(model->statistics().copied_bytes, 0u);
    }
    for (const auto& state : states) EXPECT_EQ(state.abs().sum().item<float>(), 0);
    group->close();
  });
}

bool is_in_ordinary_memory(const torch::Tensor& tensor) {
  return tensor.storage().data_ptr().get_deleter() == ordinary_cpu_allocator().raw_deleter();
}

// Ranks that have not seen the error may still write to what was in buckets.
TEST_P(DdpInPlace, NothingIsAllocatedThereAfterAnErrorOfTheGroup) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    DistributedDataParallel<Sequential> model(make_wide_net(), group);
    const auto accumulate = [&] {
      model->zero_grad();
      const auto guard = model->no_sync();
      model->forward(input(group->rank(), 0)).pow(2).sum().backward();
      return model->parameters()[0].grad();
    };
    EXPECT_FALSE(is_in_ordinary_memory(accumulate()));
    if (group->rank() == 1) {
      EXPECT_THROW(group->barrier(), CommError);
      return;
    }
    EXPECT_THROW(model->forward(input(group->rank(), 0)).pow(2).sum().backward(), CommError);
    EXPECT_TRUE(is_in_ordinary_memory(accumulate()));
  });
}

TEST_P(DdpInPlace, GoesOnAfterAnExceptionInTheMiddleAndMayJoinThen) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    compare(
        group,
        [&](auto& model, int number) {
          const auto parameter = model->parameters()[1];  // when most buckets are on their way
          if (number % 2 == 0) {
            const auto handle = parameter.register_hook([](const torch::Tensor&) -> void {
              throw std::runtime_error("a hook of the program");
            });
            EXPECT_THROW(model->forward(input(group->rank(), number)).pow(2).sum().backward(),
                         std::runtime_error);
            parameter.remove_hook(handle);
          }
          model->zero_grad();
          model->forward(input(group->rank(), number)).pow(2).sum().backward();
          descend(model);
        },
        4, Options().bucket_caps_bytes({1024}));
    DistributedDataParallel<Sequential> model(make_wide_net(), group,
                                              Options().bucket_caps_bytes({1024}));
    const auto parameter = model->parameters()[1];
    const auto handle = parameter.register_hook(
        [](const torch::Tensor&) -> void { throw std::runtime_error("a hook of the program"); });
    EXPECT_THROW(model->forward(input(0, 0)).pow(2).sum().backward(), std::runtime_error);
    parameter.remove_hook(handle);
    model->join();  // nobody has more
    model->forward(input(0, 0)).pow(2).sum().backward();
    group->close();
  });
}

TEST_P(DdpInPlace, TwoModelsInOneBackward) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    DistributedDataParallel<Sequential> first(make_wide_net(), group);
    DistributedDataParallel<Sequential> second(make_wide_net(), group);
    auto alone = make_wide_net();
    for (int step = 0; step < 3; ++step) {
      for (auto* model : {&first, &second}) (*model)->zero_grad();
      alone->zero_grad();
      (second->forward(first->forward(input(group->rank(), step)))).pow(2).sum().backward();
    }
    EXPECT_EQ(first->statistics().copied_bytes, 0u);
    EXPECT_EQ(second->statistics().copied_bytes, 0u);
    // The global batch, each half of the chain by itself.
    std::vector<torch::Tensor> all;
    for (int rank = 0; rank < group->size(); ++rank) all.push_back(input(rank, 2));
    auto twin = make_wide_net();
    (twin->forward(alone->forward(torch::cat(all)))).pow(2).sum().div(group->size()).backward();
    for (std::size_t i = 0; i < alone->parameters().size(); ++i) {
      EXPECT_TRUE(torch::allclose(first->parameters()[i].grad(), alone->parameters()[i].grad(),
                                  1e-4, 1e-5));
      EXPECT_TRUE(torch::allclose(second->parameters()[i].grad(), twin->parameters()[i].grad(),
                                  1e-4, 1e-5));
    }
    group->close();
  });
}

TEST_P(DdpInPlace, GradientsOutliveTheModelAndItsGroup) {
  std::vector<torch::Tensor> kept(static_cast<std::size_t>(GetParam()));
  run_ranks_or_throw(GetParam(), [&](const Group& group) {
    DistributedDataParallel<Sequential> model(make_wide_net(), group);
    model->forward(input(0, 0)).pow(2).sum().backward();
    kept[static_cast<std::size_t>(group->rank())] = model->parameters()[0].grad();
    group->close();
  });
  for (const auto& gradient : kept) EXPECT_TRUE(torch::equal(gradient, kept[0]));
  EXPECT_GT(kept[0].abs().sum().item<float>(), 0);
}

}  // namespace
}  // namespace lockstep::testing
