// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/inference/ensemble.h>
#include <lockstep/inference/models.h>
#include <lockstep/training/load_state.h>
#include <lockstep/training/safetensors.h>
#include <torch/torch.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "support/expected_errors.h"

namespace lockstep::inference {
namespace {

namespace fs = std::filesystem;

class ModelFiles : public ::testing::Test {
 protected:
  ModelFiles()
      : folder(fs::temp_directory_path() / ("lockstep-models-" + std::to_string(::getpid()))) {
    fs::create_directories(folder);
  }
  ~ModelFiles() override { fs::remove_all(folder); }

  // Other weights than those that the factory draws.
  static torch::nn::Sequential drawn(std::uint64_t seed) {
    torch::manual_seed(seed);
    return torch::nn::Sequential(torch::nn::Linear(4, 8), torch::nn::ReLU(),
                                 torch::nn::Linear(8, 3));
  }

  fs::path folder;
};

TEST_F(ModelFiles, WeightsComeFromSafetensors) {
  const auto trained = drawn(1);
  training::save_state(trained, folder / "model.safetensors");
  const auto input = torch::arange(8, torch::kFloat).reshape({2, 4});
  const torch::NoGradGuard guard;
  auto own = trained;
  const auto expected = own->forward(input);
  Ensemble holder(
      {member("a", from_safetensors(folder / "model.safetensors", [] { return drawn(2); }))});
  EXPECT_TRUE(torch::equal(holder.submit(input).get().output, expected));
  Ensemble pointer(
      {member("a", from_safetensors(folder / "model.safetensors", [] { return drawn(2).ptr(); }))});
  EXPECT_TRUE(torch::equal(pointer.submit(input).get().output, expected));
  try {
    Ensemble({member("a", from_safetensors(folder / "none.safetensors", [] { return drawn(2); }))});
    ADD_FAILURE() << "no error";
  } catch (const EnsembleError& error) {
    EXPECT_NE(std::string(error.what()).find("none.safetensors"), std::string::npos)
        << error.what();
  }
}

TEST_F(ModelFiles, WhatIsNoPackageIsRefused) {
  lockstep::testing::expect_refusal([&] { static_cast<void>(from_package(folder / "none.pt2")()); },
                                    "there is no file");
  std::ofstream(folder / "text.pt2") << "not a package";
  lockstep::testing::expect_refusal([&] { static_cast<void>(from_package(folder / "text.pt2")()); },
                                    "text.pt2 cannot be loaded as model 'model'");
}

// Python compiles a small model, and says what it returns.
TEST_F(ModelFiles, APackageOfPythonsCompilerIsAModel) {
  const std::string python = LOCKSTEP_TORCH_PYTHON;
  if (python.empty() || python.find("NOTFOUND") != std::string::npos)
    GTEST_SKIP() << "no Python with torch";
  const auto package = folder / "model.pt2";
  const std::string command = python + " " + LOCKSTEP_PACKAGE_SCRIPT + " " + package.string() +
                              " " + (folder / "expected.safetensors").string() + " > " +
                              (folder / "log").string() + " 2>&1";
  const int status = std::system(command.c_str());
  std::ifstream log(folder / "log");
  const std::string text((std::istreambuf_iterator<char>(log)), {});
  if (WEXITSTATUS(status) == 77) GTEST_SKIP() << text;
  ASSERT_EQ(status, 0) << text;
  auto tensors = training::load_safetensors(folder / "expected.safetensors");
  // Two copies are made at the same time, as processes and as threads.
  for (const auto kind : {WorkerKind::Process, WorkerKind::Thread}) {
    Ensemble ensemble({member("package", from_package(package)).copies(2)},
                      EnsembleOptions().kind(kind));
    const auto output = ensemble.submit(tensors.at("input")).get().output;
    EXPECT_TRUE(torch::equal(output, tensors.at("output")))
        << (output - tensors.at("output")).abs().max();
  }
  lockstep::testing::expect_refusal(
      [&] { static_cast<void>(from_package(package, PackageOptions().model("other"))()); },
      "cannot be loaded as model 'other'");
}

}  // namespace
}  // namespace lockstep::inference
