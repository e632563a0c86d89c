// SPDX-License-Identifier: BSD-3-Clause
// What may travel between stages, and what may be a stage.
#include <gtest/gtest.h>
#include <lockstep/comm/mesh.h>
#include <lockstep/pipeline/pipeline.h>
#include <torch/torch.h>

#include <tuple>

#include "pipeline/runtime/activation_slots.h"
#include "pipeline/runtime/parcel.h"
#include "staged_model.h"
#include "support/expected_errors.h"
#include "support/in_process_ranks.h"

namespace lockstep::testing {
namespace {

using pipeline::Pipeline;
using pipeline::PipelineOptions;
using pipeline::Stage;
using Tensors = std::vector<torch::Tensor>;

torch::Tensor squares(const torch::Tensor& output, const torch::Tensor& target) {
  return (output - target).square().mean();
}

torch::nn::Linear linear(double phase) {
  torch::nn::Linear net(4, 4);
  fill_parameters(*net, phase);
  return net;
}

torch::Tensor rows(std::int64_t count) {
  return torch::sin(torch::arange(count * 4, torch::kFloat)).view({count, 4});
}

class PipelineMessages : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Schedules, PipelineMessages,
                         ::testing::Values("gpipe", "1f1b", "zero_bubble"));

// The first stage makes a tuple with whole numbers and with a tensor that nobody differentiates; a
// vector goes on; the last stage ignores one of its tensors, whose gradient is none.
TEST_P(PipelineMessages, CarryTuplesWholeNumbersAndTensorsThatNobodyUses) {
  const auto data = rows(8);
  const auto target = rows(8) * 2;
  const auto first = [](torch::nn::Linear net, const torch::Tensor& x) {
    return std::make_tuple(net(x), x > 0, x.argmax(1), net(x).sin());
  };
  const auto second = [](torch::nn::Linear net, const Tensors& x) {
    EXPECT_EQ(x.at(1).scalar_type(), torch::kBool);
    EXPECT_EQ(x.at(2).scalar_type(), torch::kLong);
    return Tensors{net(x.at(0)) * x.at(1), x.at(3), x.at(2)};
  };
  const auto third = [](torch::nn::Linear net, const torch::Tensor& x, const torch::Tensor& /*no*/,
                        const torch::Tensor& place) { return net(x) + place.unsqueeze(1); };
  std::vector<torch::nn::Linear> whole{linear(1), linear(2), linear(3)};
  for (int i = 0; i < 4; ++i) {
    const auto x = first(whole[0], data.narrow(0, 2 * i, 2));
    const auto y =
        second(whole[1], {std::get<0>(x), std::get<1>(x), std::get<2>(x), std::get<3>(x)});
    squares(third(whole[2], y[0], y[1], y[2]), target.narrow(0, 2 * i, 2)).backward();
  }
  run_ranks_or_throw(3, [&](const std::shared_ptr<ProcessGroup>& group) {
    auto net = linear(group->rank() + 1);
    std::vector<Stage> all{Stage([&](torch::Tensor x) { return first(net, x); }, net),
                           Stage([&](const Tensors& x) { return second(net, x); }, net),
                           Stage([&](torch::Tensor x, torch::Tensor y,
                                     torch::Tensor z) { return third(net, x, y, z); },
                                 net)};
    Pipeline pipeline(
        group, all.at(static_cast<std::size_t>(group->rank())),
        PipelineOptions().microbatches(4).schedule(pipeline::schedule_named(GetParam())));
    static_cast<void>(pipeline.step(group->rank() == 0 ? data : torch::Tensor(),
                                    group->rank() == 2 ? target : torch::Tensor(), squares));
    EXPECT_TRUE(torch::equal(net->weight.grad(),
                             whole[static_cast<std::size_t>(group->rank())]->weight.grad() / 4));
    pipeline.close();
    group->close();
  });
}

TEST_P(PipelineMessages, ChangeTheirShapesFromMicrobatchToMicrobatch) {
  run_ranks_or_throw(2, [&](const std::shared_ptr<ProcessGroup>& group) {
    auto net = linear(group->rank());
    int calls = 0;
    std::vector<Stage> all{Stage(
                               [&](const torch::Tensor& x) {
                                 ++calls;
                                 const auto y = net(x);
                                 if (calls == 2) return y.narrow(0, 0, 0);  // without elements
                                 // The third one has more dimensions than fit the first message.
                                 std::vector<std::int64_t> sizes(calls == 3 ? 60 : 1, 1);
                                 sizes.back() = y.numel();
                                 return y.view(sizes);
                               },
                               net),
                           Stage(
                               [&](const torch::Tensor& x) {
                                 return net(x.reshape({-1, 4})).sum() + 0 * net->bias.sum();
                               },
                               net)};
    Pipeline pipeline(
        group, {all.at(static_cast<std::size_t>(group->rank()))},
        PipelineOptions().microbatches(4).schedule(pipeline::schedule_named(GetParam())));
    const auto losses =
        pipeline.step(rows(8), rows(8), [](torch::Tensor output, torch::Tensor) { return output; });
    EXPECT_EQ(losses.size(), group->rank() == 1 ? 4U : 0U);
    for (std::size_t i = 0; i < losses.size(); ++i) {
      auto one = linear(0), two = linear(1);
      const auto x = i == 1 ? rows(0) : one(rows(8).narrow(0, 2 * static_cast<std::int64_t>(i), 2));
      EXPECT_TRUE(torch::equal(losses[i], two(x).sum().detach())) << i;
    }
    group->close();
  });
}

TEST_P(PipelineMessages, LargerThanAnyBufferPassEachOther) {
  // Activations and gradients of 4 MiB, more than the ring buffers of the shared memory hold.
  run_ranks_or_throw(3, [&](const std::shared_ptr<ProcessGroup>& group) {
    const auto scale = torch::full({1}, 1.5).requires_grad_();
    torch::nn::ParameterList parameters;
    parameters->append(scale);
    Pipeline pipeline(
        group, {Stage([&](torch::Tensor x) { return x * scale; }, parameters)},
        PipelineOptions().microbatches(6).schedule(pipeline::schedule_named(GetParam())));
    const auto data = torch::ones({6, 1 << 20});
    static_cast<void>(pipeline.step(
        data, data,
        [](const torch::Tensor& output, const torch::Tensor&) { return output.sum(); }));
    EXPECT_EQ(scale.grad().item<double>(), (1 << 20) * 1.5 * 1.5);
    // The inner rank sends in both directions.
    EXPECT_EQ(pipeline.statistics().sent_bytes, (group->rank() == 1 ? 12U : 6U) << 22);
    group->close();
  });
}

TEST_P(PipelineMessages, SendNoGradientsToFrozenStages) {
  run_ranks_or_throw(2, [&](const std::shared_ptr<ProcessGroup>& group) {
    auto net = linear(group->rank());
    if (group->rank() == 0) {
      for (auto& parameter : net->parameters()) parameter.requires_grad_(false);
    }
    Pipeline pipeline(
        group, net,
        PipelineOptions().microbatches(2).schedule(pipeline::schedule_named(GetParam())));
    static_cast<void>(pipeline.step(rows(4), rows(4), squares));
    EXPECT_EQ(net->weight.grad().defined(), group->rank() == 1);
    if (group->rank() == 1) {
      EXPECT_EQ(pipeline.statistics().sent_bytes, 0U);
    }
    group->close();
  });
}

TEST(PipelineSlots, AreReadWhereTheyAreAndKeptAsLongAsATensorLivesInThem) {
  run_ranks_or_throw(2, [](const std::shared_ptr<ProcessGroup>& group) {
    auto net = linear(group->rank());
    bool keeps = false;
    std::vector<torch::Tensor> kept, copies;
    const auto stage = [&](const torch::Tensor& x) {
      if (keeps) {
        kept.push_back(x.detach());
        copies.push_back(x.detach().clone());
      }
      return net(x);
    };
    constexpr std::uint64_t kParts = 6;
    Pipeline pipeline(group, {Stage(stage, net)}, PipelineOptions().microbatches(kParts));
    torch::Tensor gradient;
    const auto filled_in_a_step = [&] {
      pipeline.reset_statistics();
      net->zero_grad();
      static_cast<void>(pipeline.step(rows(12), rows(12) * 3, squares));
      if (!gradient.defined()) gradient = net->weight.grad().clone();
      EXPECT_TRUE(torch::equal(net->weight.grad(), gradient));
      return pipeline.statistics().slots_filled;
    };
    EXPECT_EQ(filled_in_a_step(), 0U);  // nobody knows their size
    EXPECT_EQ(filled_in_a_step(), kParts);
    keeps = group->rank() == 1;
    const auto filled = filled_in_a_step();
    if (group->rank() == 0) {
      EXPECT_LT(filled, kParts);  // the others have gone as messages
    } else {
      EXPECT_EQ(filled, kParts);
    }
    keeps = false;
    static_cast<void>(filled_in_a_step());
    for (std::size_t i = 0; i < kept.size(); ++i)
      EXPECT_TRUE(torch::equal(kept[i], copies[i])) << i;
    kept.clear();
    group->barrier();
    EXPECT_EQ(filled_in_a_step(), kParts);
    // Larger rows than in the first step do not fit.
    const auto data = rows(12 * 4).view({12, 4, 4});
    static_cast<void>(pipeline.step(data, data, squares));
    pipeline.close();
    group->close();
  });
}

// The states of two replicas that cross: stage 0 of one replica and stage 1 of the other are in
// computations that wait for the second replica, and their messages are under way.
TEST(PipelineCollectives, InsideStagesLeaveLargeMessagesOnTheirWay) {
  run_ranks_or_throw(4, [](const std::shared_ptr<ProcessGroup>& group) {
    Mesh mesh(group, {{"stage", 2}, {"data", 2}});
    const auto replicas = mesh.group("data");
    const auto stages = mesh.group("stage");
    const auto meet = [replicas] { replicas->all_reduce(torch::ones({1})).wait(); };
    auto net = linear(stages->rank());
    int calls = 0;
    const auto first = [&](const torch::Tensor& x) {
      // Activation and gradient of 4 MiB: of the second microbatch in one replica, of the first one
      // in the other.
      const bool is_large = calls++ % 2 != replicas->rank();
      auto y = net(x).repeat({is_large ? 1 << 18 : 1, 1});
      y.register_hook([meet](const torch::Tensor& gradient) {
        meet();
        return gradient;
      });
      return y;
    };
    const auto second = [&](const torch::Tensor& x) {
      meet();
      return net(x);
    };
    std::vector<Stage> all{Stage(first, net), Stage(second, net)};
    Pipeline pipeline(stages, {all.at(static_cast<std::size_t>(stages->rank()))},
                      PipelineOptions().microbatches(2).activation_slots(false));
    for (int step = 0; step < 2; ++step) {
      static_cast<void>(pipeline.step(
          rows(2), rows(2),
          [](const torch::Tensor& output, const torch::Tensor&) { return output.mean(); }));
    }
    EXPECT_TRUE(net->weight.grad().defined());
    pipeline.close();
    mesh.close();
    group->close();
  });
}

TEST_P(PipelineMessages, MayBeChangedInPlaceWhereNoGradientBelongsToThem) {
  const auto use = [](torch::nn::Linear net, const torch::Tensor& x, torch::Tensor mask) {
    return net(x) + mask.mul_(net->weight.select(0, 0));
  };
  auto one = linear(0), two = linear(1);
  for (int i = 0; i < 2; ++i) {
    const auto x = rows(4).narrow(0, 2 * i, 2);
    squares(use(two, one(x), x.clone()), x).backward();
  }
  run_ranks_or_throw(2, [&](const std::shared_ptr<ProcessGroup>& group) {
    auto net = linear(group->rank());
    std::vector<Stage> all{
        Stage([&](torch::Tensor x) { return std::make_tuple(net(x), x.clone()); }, net),
        Stage([&](torch::Tensor x, torch::Tensor mask) { return use(net, x, mask); }, net)};
    Pipeline pipeline(
        group, {all.at(static_cast<std::size_t>(group->rank()))},
        PipelineOptions().microbatches(2).schedule(pipeline::schedule_named(GetParam())));
    static_cast<void>(pipeline.step(rows(4), rows(4), squares));
    const auto& expected = group->rank() == 0 ? one->weight.grad() : two->weight.grad();
    EXPECT_TRUE(torch::equal(net->weight.grad(), expected / 2));
    group->close();
  });
}

TEST(PipelineComplexMessages, ComeAsTheirValues) {
  run_ranks_or_throw(2, [](const std::shared_ptr<ProcessGroup>& group) {
    auto net = linear(group->rank());
    std::vector<Stage> all{Stage(
                               [&](torch::Tensor x) {
                                 return torch::view_as_complex(net(x).view({-1, 2})).conj();
                               },
                               net),
                           Stage(
                               [&](torch::Tensor x) {
                                 EXPECT_FALSE(x.is_conj());
                                 return net(torch::view_as_real(x.clone()).reshape({-1, 4}));
                               },
                               net)};
    Pipeline pipeline(group, {all.at(static_cast<std::size_t>(group->rank()))},
                      PipelineOptions().microbatches(2));
    for (int step = 0; step < 2; ++step) {
      const auto losses = pipeline.step(rows(4), rows(4), squares);
      for (std::size_t i = 0; i < losses.size(); ++i) {
        const auto x = rows(4).narrow(0, 2 * static_cast<std::int64_t>(i), 2);
        const auto turned = linear(0)(x) * torch::tensor({1.0F, -1.0F, 1.0F, -1.0F});
        EXPECT_TRUE(torch::equal(losses[i], squares(linear(1)(turned), x).detach())) << i;
      }
    }
    group->close();
  });
}

TEST(PipelineSlots, AreLeftAloneByParcelsThatTakeNothing) {
  run_ranks_or_throw(2, [](const std::shared_ptr<ProcessGroup>& group) {
    auto net = linear(group->rank());
    // The gradient of the first output is needed in the first steps alone.
    bool is_used = true;
    std::vector<Stage> all{
        Stage(net),
        Stage([&](const torch::Tensor& x) { return is_used ? net(x) : net(torch::ones_like(x)); },
              net)};
    Pipeline pipeline(group, {all.at(static_cast<std::size_t>(group->rank()))},
                      PipelineOptions().microbatches(2));
    const auto filled_in_a_step = [&] {
      pipeline.reset_statistics();
      static_cast<void>(pipeline.step(rows(4), rows(4), squares));
      return pipeline.statistics().slots_filled;
    };
    EXPECT_EQ(filled_in_a_step(), 0U);
    EXPECT_EQ(filled_in_a_step(), 2U);
    is_used = false;
    for (int step = 0; step < 4; ++step) {
      EXPECT_EQ(filled_in_a_step(), group->rank() == 0 ? 2U : 0U);
    }
    is_used = true;
    EXPECT_EQ(filled_in_a_step(), 2U);
    group->close();
  });
}

/// A stage whose device changes after a step.
struct ScaleImpl : torch::nn::Module {
  ScaleImpl() { weight = register_parameter("weight", torch::ones({1})); }
  torch::Tensor forward(const torch::Tensor& x) { return x * weight; }
  void go_to_meta() { weight = parameters_["weight"] = torch::empty({1}, torch::kMeta); }
  torch::Tensor weight;
};
TORCH_MODULE(Scale);

TEST(PipelineSlots, AreForTensorsOfTheCpuAndReadOnTheDeviceOfTheStage) {
  EXPECT_EQ(pipeline::ActivationSlots::bytes_of({rows(4)}), 64U);
  EXPECT_EQ(pipeline::ActivationSlots::bytes_of({rows(4), rows(4).to(torch::kMeta)}), 0U);
  run_ranks_or_throw(2, [](const std::shared_ptr<ProcessGroup>& group) {
    Scale net;
    Pipeline pipeline(group, net, PipelineOptions().microbatches(2));
    static_cast<void>(pipeline.step(rows(4), rows(4), squares));
    if (group->rank() == 1) net->go_to_meta();
    const auto output = pipeline.forward(rows(4));
    if (group->rank() == 1) {
      EXPECT_TRUE(output.is_meta());
    }
    group->close();
  });
}

TEST(PipelineSlots, AreNotUsedWhereTheyAreNotWanted) {
  run_ranks_or_throw(2, [](const std::shared_ptr<ProcessGroup>& group) {
    auto net = linear(group->rank());
    Pipeline pipeline(group, net, PipelineOptions().microbatches(2).activation_slots(false));
    for (int step = 0; step < 3; ++step) {
      static_cast<void>(pipeline.step(rows(4), rows(4), squares));
    }
    EXPECT_EQ(pipeline.statistics().slots_filled, 0U);
    EXPECT_GT(pipeline.statistics().sent_bytes, 0U);
    group->close();
  });
}

TEST(PipelineStages, MayBeWhateverAProgramHas) {
  run_ranks_or_throw(1, [](const std::shared_ptr<ProcessGroup>& group) {
    const auto options = PipelineOptions().microbatches(2).schedule(pipeline::gpipe());
    const auto expect_gradient = [&](Pipeline pipeline, torch::nn::Linear net) {
      net->zero_grad();
      EXPECT_EQ(pipeline.step({rows(4)}, {rows(4)}, squares).size(), 2U);
      EXPECT_TRUE(net->weight.grad().defined());
    };
    auto net = linear(1);
    expect_gradient(Pipeline(group, net, options), net);
    expect_gradient(Pipeline(group, {net}, options), net);
    expect_gradient(Pipeline(group, std::vector<torch::nn::Linear>{net, net}, options), net);
    expect_gradient(Pipeline(group, {torch::nn::Sequential(net, torch::nn::Tanh())}, options), net);
    expect_gradient(Pipeline(group, {torch::nn::AnyModule(net)}, options), net);
    expect_gradient(Pipeline(group, {net.ptr()}, options), net);
    torch::nn::Sequential half(net);
    const auto tail = Stage::without_parameters([](const torch::Tensor& x) { return x.tanh(); });
    expect_gradient(Pipeline(group, {half, torch::nn::AnyModule(linear(2)), tail}, options), net);
    // A loss module, and one that takes vectors.
    Pipeline pipeline(group, {net}, options);
    EXPECT_EQ(pipeline.step(rows(4), rows(4), torch::nn::MSELoss()).size(), 2U);
    const auto of_vectors = [](const Tensors& outputs, const Tensors& targets) {
      return squares(outputs.at(0), targets.at(1));
    };
    EXPECT_EQ(pipeline.step(rows(4), {rows(4), rows(4)}, of_vectors).size(), 2U);
    group->close();
  });
}

TEST(PipelineStages, RefuseEmptyHoldersAndOtherNumbersOfTensors) {
  expect_refusal([] { static_cast<void>(Stage(torch::nn::Linear(nullptr))); }, "empty or null");
  const Stage one(linear(1));
  expect_refusal(
      [&] {
        static_cast<void>(one.call({rows(1), rows(1)}));
      },
      "does not take 2 tensors");
}

TEST(PipelineParcels, AreRefusedWhenTheyAreNone) {
  pipeline::Parcel parcel{
      1, 2, {3, 4, 5}, 6, {rows(2), torch::Tensor(), torch::ones({}, torch::kHalf)}, {true}};
  const auto words = pipeline::describe_parcel(parcel);
  const auto make = [](const std::optional<std::int64_t>& slot, at::IntArrayRef sizes,
                       at::ScalarType dtype) {
    EXPECT_EQ(slot, 6);
    return torch::empty(sizes, dtype);
  };
  const auto copy = pipeline::make_parcel(words, make, 0);
  EXPECT_EQ(copy.slot, 6);
  EXPECT_EQ(copy.microbatch, 2);
  EXPECT_EQ(copy.batch.microbatches, 5);
  ASSERT_EQ(copy.tensors.size(), 3U);
  EXPECT_EQ(copy.tensors[0].sizes(), rows(2).sizes());
  EXPECT_FALSE(copy.tensors[1].defined());
  EXPECT_EQ(copy.tensors[2].scalar_type(), torch::kHalf);
  EXPECT_EQ(copy.needs_gradient, (std::vector<bool>{true, false, false}));
  for (std::size_t i = 2; i < 13; ++i) {
    auto broken = words;
    broken[i] = -1;
    expect_refusal([&] { static_cast<void>(pipeline::make_parcel(broken, make, 7)); },
                   "rank 7 sent something else");
  }
  auto unmarked = words;
  unmarked[0] = 1;
  expect_refusal([&] { static_cast<void>(pipeline::words_of(unmarked.data(), 7)); }, "rank 7");
}

}  // namespace
}  // namespace lockstep::testing
