// SPDX-License-Identifier: BSD-3-Clause
// The C++ side of tests/python/tensorboard_parity_driver.py, which writes the same with Python and
// compares.
#include <gtest/gtest.h>
#include <lockstep/training/tensorboard.h>
#include <sys/wait.h>
#include <torch/torch.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>

namespace lockstep::training {
namespace {

std::filesystem::path folder(const std::string& run) {
  const char* path = std::getenv("LOCKSTEP_PARITY_FOLDER");
  if (path == nullptr) throw std::runtime_error("tensorboard_parity_driver.py starts this program");
  return std::filesystem::path(path) / "ours" / run;
}

/// As in the driver.
double value_of(std::int64_t i) {
  return static_cast<double>(i * 37 % 101) / 7.0 - 3.0;
}
at::Tensor numbers(std::int64_t count) {
  return torch::arange(count, at::kDouble).mul(37).remainder(101).div(50).sub(0.5);
}

TEST(TensorBoardPythonParity, Scalars) {
  TensorBoard board(folder("scalars"));
  TensorBoard doubles(folder("doubles"), TensorBoardOptions().double_precision(true));
  for (std::int64_t i = 0; i < 100; ++i) {
    for (const char* tag : {"loss/train", "a b", "back\\slash", "\xC3\xA4"}) {
      board.scalar(tag, value_of(i), i * i - 50);
      doubles.scalar(tag, value_of(i), i * i - 50);
    }
  }
  for (const double value : {0.0, -0.0, 1e-45, 1e30, HUGE_VAL, -HUGE_VAL}) {
    board.scalar("special", value, 0);
    doubles.scalar("special", value, 0);
  }
  board.scalar("nan", std::nan(""), 0);
  board.scalar("tensor", torch::full({}, 0.1, at::kDouble), 1);
}

TEST(TensorBoardPythonParity, Texts) {
  TensorBoard board(folder("texts"));
  board.text("notes", "hi", 1);
  board.text("notes", "", 2);
  board.text("\xC3\xA4/b", "| a | b |\n|---|---|\n| \xE2\x82\xAC | <b> |", -3);
  board.text("long", std::string(100000, 'x'), 0);
}

#if LOCKSTEP_HAS_IMAGES
TEST(TensorBoardPythonParity, Images) {
  TensorBoard board(folder("images"));
  board.image("grey", numbers(35).reshape({5, 7}).to(at::kFloat), 1);
  board.image("grey1", numbers(35).reshape({1, 5, 7}).to(at::kFloat), 2);
  board.image("rgb", numbers(105).reshape({3, 5, 7}), 3);
  board.image("rgba", numbers(140).reshape({4, 5, 7}).to(at::kFloat), 4);
  board.image("bytes", torch::arange(105).reshape({3, 5, 7}).to(at::kByte), 5);
  board.image("strided", numbers(105).reshape({7, 5, 3}).to(at::kFloat).permute({2, 1, 0}), 6);
  board.image("large", numbers(3 * 200 * 300).reshape({3, 200, 300}).to(at::kFloat), 7);
}
#endif

TEST(TensorBoardPythonParity, Histograms) {
  TensorBoard board(folder("histograms"));
  board.histogram("numbers", numbers(1000), 1);
  board.histogram("floats", numbers(1000).to(at::kFloat), 2);
  board.histogram("bytes", torch::arange(256).to(at::kByte), 3);
  board.histogram("apart", torch::tensor({1e-3, 5.0, -2.0, 1e19, -1e-11}, at::kDouble), 4);
  board.histogram("zero", torch::zeros({3}), 0);
  board.histogram("cubes", numbers(1000).pow(9).mul(1e5), -5);
}

TEST(TensorBoardPythonParity, Hyperparameters) {
  TensorBoard board(folder("hparams"));
  board.hyperparameters(
      {{"lr", 0.1}, {"batch", 64}, {"arch", "resnet18"}, {"zero", 0}, {"empty", ""}},
      {"accuracy", "loss/train"});
  board.scalar("accuracy", 0.5, 3);
  board.close();
  TensorBoard flags(folder("flags"));
  flags.hyperparameters({{"amp", true}, {"compile", false}});
}

TEST(TensorBoardPythonParity, Resume) {
  TensorBoard board(folder("resume"), TensorBoardOptions().resume_at(100));
  board.scalar("a", 1, 100);
  TensorBoard from_begin(folder("resume0"), TensorBoardOptions().resume_at(0));
}

/// A process that is killed while it writes, twice, and goes on from steps that it has written.
TEST(TensorBoardPythonParity, Killed) {
  std::int64_t first = 0;
  for (int life = 0; life < 2; ++life) {
    const pid_t child = ::fork();
    if (child == 0) {
      ::alarm(60);
      TensorBoardOptions options;
      if (life > 0) options.resume_at(first);
      TensorBoard board(folder("killed"), options);
      for (std::int64_t step = first; step < first + 10; ++step) {
        board.scalar("step", static_cast<double>(step) + 0.25 * life, step);
      }
      board.flush();
      // What the system has of a record when the kill comes in the middle.
      std::ofstream(board.file(), std::ios::binary | std::ios::app) << std::string(13, '\x17');
      ::raise(SIGKILL);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status));
    first += 5;
  }
  TensorBoard board(folder("killed"), TensorBoardOptions().resume_at(first));
  for (std::int64_t step = first; step < first + 10; ++step) {
    board.scalar("step", static_cast<double>(step) + 0.5, step);
  }
}

}  // namespace
}  // namespace lockstep::training
