// SPDX-License-Identifier: BSD-3-Clause
// Staging without a GPU: CPU tensors stand for those of a device.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "comm/collective/staged_operation.h"

namespace lockstep {
namespace {

using namespace std::chrono_literals;

/// Says what it is asked, and writes 7 to all outputs when it finishes.
class FakeOperation final : public Operation {
 public:
  struct Log {
    int starts = 0;
    bool may_finish = false;
    bool fails = false;
  };
  FakeOperation(Collective call, Log& log) : call_(std::move(call)), log_(log) {}

  bool try_start(bool) override { return ++log_.starts > 0; }
  bool try_finish() override {
    if (log_.fails) throw OperationFailure{OperationFailure::Kind::Mismatch, "no", ""};
    if (!log_.may_finish) return false;
    for (const auto& output : call_.outputs) output.fill_(7);
    return true;
  }
  void sleep(std::chrono::nanoseconds) override {}
  void check_peers() override { throw OperationFailure{OperationFailure::Kind::PeerLost, "", ""}; }
  [[nodiscard]] std::string describe_missing() const override { return "rank 5"; }

 private:
  Collective call_;
  Log& log_;
};

struct Fixture {
  explicit Fixture(Collective call,
                   StagedOperation::Mode mode = StagedOperation::Mode::PinnedCopies)
      : operation(std::move(call), mode, [this](Collective made) {
          staged = made;
          return std::make_unique<FakeOperation>(std::move(made), log);
        }) {}
  FakeOperation::Log log;
  Collective staged;
  StagedOperation operation;
};

TEST(StagedOperation, WorksOnCopiesAndBringsOutputsBack) {
  const auto input = torch::arange(6).view({2, 3}).t();  // with strides of its own
  const auto output = torch::zeros({4});
  Fixture fixture({.op = CollectiveOp::Gather, .inputs = {input}, .outputs = {output}});
  input.zero_();  // the copy was made with the call
  EXPECT_TRUE(fixture.operation.try_start(true));
  EXPECT_NE(fixture.staged.inputs[0].data_ptr(), input.data_ptr());
  EXPECT_EQ(fixture.staged.inputs[0].strides(), input.strides());
  EXPECT_EQ(fixture.staged.inputs[0][2][1].item<int>(), 5);
  EXPECT_FALSE(fixture.operation.try_finish());
  EXPECT_EQ(fixture.operation.describe_missing(), "rank 5");
  EXPECT_THROW(fixture.operation.check_peers(), OperationFailure);
  EXPECT_EQ(output[0].item<int>(), 0);
  fixture.log.may_finish = true;
  EXPECT_TRUE(fixture.operation.try_finish());
  EXPECT_EQ(output[3].item<int>(), 7);
  EXPECT_EQ(fixture.log.starts, 1);
}

TEST(StagedOperation, BringsResultsIntoParameters) {
  const auto parameter = torch::zeros({4}, torch::requires_grad());
  Fixture fixture({.op = CollectiveOp::Broadcast, .inputs = {parameter}, .outputs = {parameter}});
  fixture.log.may_finish = true;
  EXPECT_TRUE(fixture.operation.try_start(true));
  EXPECT_TRUE(fixture.operation.try_finish());
  EXPECT_EQ(parameter[3].item<float>(), 7);
  EXPECT_TRUE(parameter.is_leaf());
}

TEST(StagedOperation, LeavesVersionsToTheCallThatMadeIt) {
  torch::Tensor without_version;
  {
    const torch::InferenceMode mode;
    without_version = torch::zeros({4});
  }
  const auto ordinary = torch::zeros({4});
  for (const auto& tensor : {without_version, ordinary}) {
    Fixture fixture({.op = CollectiveOp::Broadcast, .inputs = {tensor}, .outputs = {tensor}});
    fixture.log.may_finish = true;
    EXPECT_TRUE(fixture.operation.try_start(true));
    EXPECT_TRUE(fixture.operation.try_finish());
    EXPECT_EQ(tensor[3].item<float>(), 7);
  }
  EXPECT_EQ(ordinary._version(), 0);
}

TEST(StagedOperation, GivesTheTensorsThemselvesToABackendThatReadsTheirMemory) {
  const auto input = torch::ones({3});
  const auto output = torch::zeros({4});
  Fixture fixture({.op = CollectiveOp::Gather, .inputs = {input}, .outputs = {output}},
                  StagedOperation::Mode::InPlace);
  EXPECT_TRUE(fixture.operation.try_start(true));
  EXPECT_TRUE(fixture.staged.inputs[0].is_same(input));
  EXPECT_TRUE(fixture.staged.outputs[0].is_same(output));
  EXPECT_FALSE(fixture.operation.try_finish());
  fixture.log.may_finish = true;
  EXPECT_TRUE(fixture.operation.try_finish());
  EXPECT_EQ(output[3].item<int>(), 7);
}

TEST(StagedOperation, KeepsACallInPlaceInPlace) {
  const auto tensor = torch::ones({3});
  Fixture fixture({.op = CollectiveOp::AllReduce, .inputs = {tensor}, .outputs = {tensor}});
  EXPECT_TRUE(fixture.operation.try_start(true));
  EXPECT_TRUE(fixture.staged.inputs[0].is_same(fixture.staged.outputs[0]));
}

TEST(StagedOperation, AFailureLeavesTheOutputsAlone) {
  const auto tensor = torch::ones({3});
  Fixture fixture({.op = CollectiveOp::AllReduce, .inputs = {tensor}, .outputs = {tensor}});
  fixture.log.fails = true;
  EXPECT_TRUE(fixture.operation.try_start(true));
  EXPECT_THROW(fixture.operation.try_finish(), OperationFailure);
  EXPECT_EQ(tensor[0].item<int>(), 1);
}

}  // namespace
}  // namespace lockstep
