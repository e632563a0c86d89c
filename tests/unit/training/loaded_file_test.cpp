// SPDX-License-Identifier: BSD-3-Clause
#include "training/checkpoint/loaded_file.h"

#include <gtest/gtest.h>
#include <lockstep/training/safetensors.h>
#include <torch/torch.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "files/digest.h"
#include "support/expected_errors.h"
#include "support/raw_safetensors.h"

namespace lockstep::training {
namespace {

using testing::expect_refusal;
using Tensors = std::map<std::string, torch::Tensor>;

FileDigest digest_of(const std::string& bytes) {
  files::Digest digest;
  digest.add(std::as_bytes(std::span(bytes)));
  return {bytes.size(), digest.text()};
}

LoadedFile load(const std::filesystem::path& path, const FileDigest& expected) {
  return {path, expected, native::FileSystem::of_machine()};
}

// Small tensors are read many at a time, large ones to where they stay, and both in pieces.
TEST(LoadedFile, TensorsOfAllSizesFollowOneAnother) {
  const TemporaryFolder folder;
  const auto path = folder / "a";
  constexpr std::int64_t kMiB = std::int64_t{1} << 20;
  const std::vector<std::int64_t> sizes{0,    1,        65535, 65536,    65537, kMiB - 3,     7,
                                        kMiB, kMiB + 1, 3,     0,        2,     5 * kMiB + 9, 65536,
                                        1,    100,      65535, kMiB - 1, 11};
  Tensors tensors;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const auto name = std::to_string(100 + i);  // their order in the file, too
    tensors.emplace(name, torch::randint(0, 256, {sizes[i]}, torch::kByte));
  }
  save_safetensors(path, tensors, {{"note", "some text"}});
  const LoadedFile file = load(path, digest_of(read_bytes(path)));
  ASSERT_EQ(file.tensors().size(), tensors.size());
  for (const auto& [name, tensor] : file.tensors()) {
    EXPECT_TRUE(tensor.equal(tensors.at(name))) << name << " of " << tensor.numel();
  }
  EXPECT_EQ(file.texts().at("note"), "some text");
}

TEST(LoadedFile, EachTensorHasMemoryOfItsOwn) {
  const TemporaryFolder folder;
  const auto path = folder / "a";
  save_safetensors(path, {{"a", torch::ones({3})}, {"b", torch::ones({5})}});
  const auto tensors = load(path, digest_of(read_bytes(path))).tensors();
  for (const auto& [name, tensor] : tensors) {
    EXPECT_EQ(tensor.storage().nbytes(), tensor.nbytes()) << name;
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensor.data_ptr()) % 64, 0U) << name;
  }
}

TEST(LoadedFile, EveryFlippedBitIsDamage) {
  const TemporaryFolder folder;
  const auto path = folder / "a";
  save_safetensors(path, {{"a", torch::arange(5)}, {"b", torch::ones({3}, torch::kByte)}});
  const std::string whole = read_bytes(path);
  for (std::size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    std::string damaged = whole;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    write_bytes(path, damaged);
    expect_refusal([&] { load(path, digest_of(whole)); },
                   "its bytes are not those that were written");
  }
}

TEST(LoadedFile, ABitOfALargeTensorIsDamage) {
  const TemporaryFolder folder;
  const auto path = folder / "a";
  save_safetensors(path, {{"a", torch::ones({1 << 20})}, {"b", torch::ones({3})}});
  std::string bytes = read_bytes(path);
  const auto expected = digest_of(bytes);
  bytes[bytes.size() / 2] ^= 1;
  write_bytes(path, bytes);
  expect_refusal([&] { load(path, expected); }, "its bytes are not those that were written");
}

TEST(LoadedFile, AnotherLengthIsDamage) {
  const TemporaryFolder folder;
  const auto path = folder / "a";
  save_safetensors(path, {{"a", torch::arange(5)}});
  const std::string whole = read_bytes(path);
  const std::string longer = whole + '\0';
  for (std::size_t bytes = 0; bytes <= longer.size(); ++bytes) {
    if (bytes == whole.size()) continue;
    write_bytes(path, longer.substr(0, bytes));
    expect_refusal([&] { load(path, digest_of(whole)); },
                   "has " + std::to_string(bytes) + " bytes; " + std::to_string(whole.size()) +
                       " were written");
  }
}

TEST(LoadedFile, WhatWasWrittenWrongIsTold) {
  const TemporaryFolder folder;
  const auto path = folder / "a";
  const auto expect = [&](const std::string& bytes, const std::string& reason) {
    write_bytes(path, bytes);
    expect_refusal([&] { load(path, digest_of(bytes)); }, reason);
  };
  expect(raw_safetensors("[]"), "begins with {");
  expect("", "the end of the file");
  expect("1234567", "the end of the file");
  expect(little(3) + "{}", "at most 2 bytes, which is all that follows");
  expect(little(100'000'001) + "{}", "a header of at most 100000000");
}

}  // namespace
}  // namespace lockstep::training
