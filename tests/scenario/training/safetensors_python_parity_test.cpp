// SPDX-License-Identifier: BSD-3-Clause
// The C++ side of tests/python/safetensors_parity_driver.py, which compares what this writes.
#include <gtest/gtest.h>
#include <lockstep/training/load_state.h>
#include <lockstep/training/safetensors.h>
#include <torch/torch.h>

#include <cstdlib>
#include <filesystem>
#include <string>

namespace lockstep::training {
namespace {

namespace fs = std::filesystem;
using Tensors = std::map<std::string, torch::Tensor>;

fs::path folder() {
  const char* path = std::getenv("LOCKSTEP_PARITY_FOLDER");
  if (path == nullptr) throw std::runtime_error("safetensors_parity_driver.py starts this program");
  return path;
}

TEST(SafetensorsPythonParity, WhatPythonWroteIsWrittenAgain) {
  int files = 0;
  for (const auto& file : fs::directory_iterator(folder() / "reference")) {
    const bool is_mapped = ++files % 2 == 0;
    save_safetensors(
        folder() / "ours" / file.path().filename(),
        load_safetensors(file.path(), LoadSafetensorsOptions().memory_mapped(is_mapped)),
        read_safetensors_header(file.path()).metadata);
  }
  EXPECT_GT(files, 0);
}

/// As `known` in the driver.
Tensors known() {
  const auto numbers = torch::arange(12).view({3, 4});
  const auto floats = numbers.to(torch::kFloat);
  Tensors tensors{{"bool", numbers % 2 == 1},
                  {"complex64", torch::complex(floats, -floats)},
                  {"float4_e2m1fn_x2", numbers.to(torch::kByte).view(torch::kFloat4_e2m1fn_x2)}};
  const std::map<std::string, torch::ScalarType> others{
      {"uint8", torch::kByte},
      {"int8", torch::kChar},
      {"int16", torch::kShort},
      {"uint16", torch::kUInt16},
      {"int32", torch::kInt},
      {"uint32", torch::kUInt32},
      {"int64", torch::kLong},
      {"uint64", torch::kUInt64},
      {"float16", torch::kHalf},
      {"bfloat16", torch::kBFloat16},
      {"float32", torch::kFloat},
      {"float64", torch::kDouble},
      {"float8_e5m2", torch::kFloat8_e5m2},
      {"float8_e4m3fn", torch::kFloat8_e4m3fn},
      {"float8_e8m0fnu", torch::kFloat8_e8m0fnu},
      {"float8_e5m2fnuz", torch::kFloat8_e5m2fnuz},
      {"float8_e4m3fnuz", torch::kFloat8_e4m3fnuz}};
  for (const auto& [name, type] : others) {
    tensors[name] = (c10::isFloat8Type(type) ? floats : numbers).to(type);
  }
  return tensors;
}

TEST(SafetensorsPythonParity, KnownValuesAreWrittenForPython) {
  save_safetensors(folder() / "known.safetensors", known());
  save_safetensors(folder() / "aligned.safetensors", known(), {{"format", "pt"}},
                   SaveSafetensorsOptions().alignment(4096));
}

TEST(SafetensorsPythonParity, AModelIsWrittenForPython) {
  const torch::nn::Sequential model(torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 2, 3)),
                                    torch::nn::BatchNorm2d(2));
  torch::NoGradGuard no_gradients;
  for (auto& parameter : model->parameters()) parameter.fill_(3);
  save_state(model, folder() / "model.safetensors");
}

}  // namespace
}  // namespace lockstep::training
