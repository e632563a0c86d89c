// SPDX-License-Identifier: BSD-3-Clause
// The snippets about TensorBoard of the page about the toolbox. check_snippets.py compares each
// `// [name]` part with the page.
#include <gtest/gtest.h>
#include <lockstep/lockstep.h>
#include <torch/torch.h>

#include <filesystem>
#include <optional>

#include "support/event_files.h"
#include "support/in_process_ranks.h"
#include "support/raw_safetensors.h"

namespace {

class TensorBoardPage : public ::testing::Test {
 protected:
  TensorBoardPage() { std::filesystem::current_path(folder_.path()); }
  ~TensorBoardPage() override { std::filesystem::current_path("/"); }

 private:
  lockstep::training::TemporaryFolder folder_;
};

TEST_F(TensorBoardPage, Writes) {
  torch::Tensor weight = torch::full({100}, 2.0).requires_grad_();
  const torch::Tensor image = torch::rand({3, 32, 32});
  const auto train_step = [&] {
    const torch::Tensor loss = weight.square().sum();
    loss.backward();
    return loss.detach();
  };
  // clang-format off
  // [tensorboard]
  lockstep::training::TensorBoard board("runs/a");
  board.hyperparameters({{"lr", 0.1}, {"batch", 64}, {"arch", "resnet18"}}, {"accuracy/test"});
  for (int step = 0; step < 100; ++step) {
    const torch::Tensor loss = train_step();
    board.scalar("loss/train", loss, step);
    if (step % 50 == 0) board.histogram("gradients/weight", weight.grad(), step);
  }
  board.scalar("accuracy/test", 0.93, 100);
  board.image("samples/first", image, 100);  // [channels, height, width], 0 to 1 or uint8
  board.text("notes", "The **best** run so far.", 100);
  board.close();  // throws what went wrong
  // [tensorboard]
  // clang-format on
  const auto values = lockstep::testing::values_of(board.file());
  EXPECT_EQ(values.size(), 2U + 100 + 2 + 1 + 1 + 1 + 1);
  EXPECT_EQ(values.at(2).scalar(), 400);
}

TEST_F(TensorBoardPage, GoesOn) {
  struct Found {
    std::int64_t step;
  };
  const std::optional<Found> found = Found{100};
  lockstep::testing::run_ranks_or_throw(2, [&](std::shared_ptr<lockstep::ProcessGroup> group) {
    // clang-format off
    // [resume_board]
    lockstep::training::TensorBoardOptions options;
    if (found) options.resume_at(found->step);
    lockstep::training::TensorBoard board(*group, "runs/a", options);
    // [resume_board]
    // clang-format on
    EXPECT_EQ(board.file().empty(), group->rank() == 1);
    if (group->rank() == 0) {
      EXPECT_EQ(lockstep::testing::events_of(board.file()).size(), 3U);
    }
    group->close();
  });
}

}  // namespace
