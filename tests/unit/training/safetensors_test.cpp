// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/training/safetensors.h>
#include <torch/torch.h>

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "support/expected_errors.h"
#include "support/raw_safetensors.h"

namespace lockstep::training {
namespace {

using Tensors = std::map<std::string, torch::Tensor>;
using Metadata = std::map<std::string, std::string>;

bool same_bits(const torch::Tensor& a, const torch::Tensor& b) {
  if (a.scalar_type() != b.scalar_type() || a.sizes() != b.sizes()) return false;
  if (a.nbytes() == 0) return true;
  return std::memcmp(a.contiguous().const_data_ptr(), b.contiguous().const_data_ptr(),
                     a.nbytes()) == 0;
}

/// Of every dtype that LibTorch and the format share, with bytes that no two of them have alike.
torch::Tensor of_dtype(torch::ScalarType type) {
  if (type == torch::kBool)
    return torch::tensor({true, false, true, true, false, true}).view({2, 3});
  const auto element = static_cast<std::int64_t>(c10::elementSize(type));
  return torch::arange(6 * element, torch::kByte)
      .add(static_cast<int>(type))
      .view(type)
      .view({2, 3});
}

const std::vector<torch::ScalarType>& all_dtypes() {
  static const std::vector<torch::ScalarType> all{torch::kBool,
                                                  torch::kByte,
                                                  torch::kChar,
                                                  torch::kShort,
                                                  torch::kUInt16,
                                                  torch::kInt,
                                                  torch::kUInt32,
                                                  torch::kLong,
                                                  torch::kUInt64,
                                                  torch::kHalf,
                                                  torch::kBFloat16,
                                                  torch::kFloat,
                                                  torch::kDouble,
                                                  torch::kComplexFloat,
                                                  torch::kFloat8_e5m2,
                                                  torch::kFloat8_e4m3fn,
                                                  torch::kFloat8_e8m0fnu,
                                                  torch::kFloat8_e5m2fnuz,
                                                  torch::kFloat8_e4m3fnuz,
                                                  torch::kFloat4_e2m1fn_x2};
  return all;
}

TEST(Safetensors, EveryDtypeComesBackBitForBit) {
  const TemporaryFolder folder;
  Tensors tensors;
  for (const auto type : all_dtypes()) tensors[c10::toString(type)] = of_dtype(type);
  tensors["a scalar"] = torch::tensor(3.5);
  tensors["nothing"] = torch::empty({0, 4});
  tensors["\xC3\xA4 \"quoted\" \\ \n"] = torch::ones({1});
  save_safetensors(folder / "a.safetensors", tensors, {{"format", "pt"}, {"\x01", "\xE2\x82\xAC"}});
  for (const bool is_mapped : {false, true}) {
    const auto found = load_safetensors(folder / "a.safetensors",
                                        LoadSafetensorsOptions().memory_mapped(is_mapped));
    ASSERT_EQ(found.size(), tensors.size());
    for (const auto& [name, tensor] : tensors) {
      EXPECT_TRUE(same_bits(found.at(name), tensor)) << name << ", mapped: " << is_mapped;
    }
  }
  const auto header = read_safetensors_header(folder / "a.safetensors");
  EXPECT_EQ(header.metadata, (Metadata{{"format", "pt"}, {"\x01", "\xE2\x82\xAC"}}));
  EXPECT_EQ(header.file_bytes, std::filesystem::file_size(folder / "a.safetensors"));
  EXPECT_EQ(header.tensors.at("nothing").shape, (std::vector<std::int64_t>{0, 4}));
}

// The bytes that the reference writes for these tensors, by hand.
TEST(Safetensors, HasTheBytesOfTheReference) {
  const TemporaryFolder folder;
  save_safetensors(folder / "a",
                   {{"b", torch::tensor({1.0F, 2.0F})},
                    {"z", torch::tensor(std::int64_t{7})},
                    {"q", torch::tensor({true})},
                    {"e", torch::empty({0, 4})}},
                   {{"format", "pt"}});
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"z":{"dtype":"I64","shape":[],"data_offsets":[0,8]},)"
      R"("b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]},)"
      R"("e":{"dtype":"F32","shape":[0,4],"data_offsets":[16,16]},)"
      R"("q":{"dtype":"BOOL","shape":[1],"data_offsets":[16,17]}})";
  const std::string padded = header + std::string((8 - header.size() % 8) % 8, ' ');
  const std::string data = little(7) + std::string("\0\0\x80\x3F\0\0\0\x40\x01", 9);
  EXPECT_EQ(read_bytes(folder / "a"), raw_safetensors(padded, data));
}

TEST(Safetensors, TensorsOfAnyLayoutAreWrittenInTheOrderOfTheirShape) {
  const TemporaryFolder folder;
  const auto base = torch::arange(24, torch::kFloat).view({4, 6});
  const auto complex = torch::complex(base, -base);
  save_safetensors(folder / "a",
                   {{"t", base.t()},
                    {"every second", base.slice(1, 0, 6, 2)},
                    {"conjugate", complex.conj()},
                    {"negative", torch::imag(complex.conj())},
                    {"expanded", torch::ones({1}).expand({3})},
                    {"last", base.view({1, 4, 3, 2}).to(torch::MemoryFormat::ChannelsLast)},
                    {"leaf", base.clone().requires_grad_()}});
  const auto found = load_safetensors(folder / "a");
  EXPECT_TRUE(found.at("t").equal(base.t()));
  EXPECT_TRUE(found.at("every second").equal(base.slice(1, 0, 6, 2)));
  EXPECT_TRUE(found.at("conjugate").equal(complex.conj().resolve_conj()));
  EXPECT_TRUE(found.at("negative").equal(base));
  EXPECT_TRUE(found.at("expanded").equal(torch::ones({3})));
  EXPECT_TRUE(found.at("last").equal(base.view({1, 4, 3, 2})));
  EXPECT_FALSE(found.at("leaf").requires_grad());
}

TEST(Safetensors, AlignedTensorsBeginAtAPage) {
  const TemporaryFolder folder;
  const Tensors tensors{{"a", torch::arange(5000)}, {"b", torch::ones({3}, torch::kByte)}};
  save_safetensors(folder / "a", tensors, {}, SaveSafetensorsOptions().alignment(4096));
  EXPECT_EQ(read_safetensors_header(folder / "a").tensors.at("a").offset, 4096U);
  EXPECT_TRUE(load_safetensors(folder / "a").at("b").equal(tensors.at("b")));
  for (const std::int64_t wrong : {0, 4, 12, 1 << 21, -8}) {
    EXPECT_THROW(
        save_safetensors(folder / "b", tensors, {}, SaveSafetensorsOptions().alignment(wrong)),
        c10::Error);
  }
}

TEST(Safetensors, MappedTensorsMayBeWrittenAndOutliveTheFile) {
  const TemporaryFolder folder;
  save_safetensors(folder / "a", {{"a", torch::zeros({1000})}});
  auto mapped =
      load_safetensors(folder / "a", LoadSafetensorsOptions().memory_mapped(true)).at("a");
  mapped.add_(1);
  EXPECT_TRUE(load_safetensors(folder / "a").at("a").equal(torch::zeros({1000})));
  save_safetensors(folder / "a", {{"a", torch::full({1000}, 5)}});  // another file of that name
  std::filesystem::remove(folder / "a");
  EXPECT_TRUE(mapped.equal(torch::ones({1000})));
}

TEST(Safetensors, MappedTensorsThatWouldNotBeAlignedAreCopied) {
  const TemporaryFolder folder;
  write_bytes(folder / "a",
              raw_safetensors(R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                              R"("f":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})",
                              std::string("\x09\0\0\x80\x3F", 5)));
  const auto found = load_safetensors(folder / "a", LoadSafetensorsOptions().memory_mapped(true));
  EXPECT_EQ(found.at("f").item<float>(), 1);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(found.at("f").const_data_ptr()) % 4, 0U);
}

TEST(Safetensors, WhatTheFormatCannotHoldIsRefusedByName) {
  const TemporaryFolder folder;
  const auto expect = [&](const torch::Tensor& tensor, const std::string& reason,
                          const std::string& name = "layer.weight") {
    testing::expect_refusal([&] { save_safetensors(folder / "a", {{name, tensor}}); }, reason);
    EXPECT_TRUE(std::filesystem::is_empty(folder.path())) << reason;
  };
  expect(torch::ones({2}, torch::kComplexDouble), "'layer.weight' is of dtype ComplexDouble");
  expect(torch::eye(2).to_sparse(), "is Sparse");
  expect(torch::quantize_per_tensor(torch::ones({2}), 0.1, 0, torch::kQInt8), "is quantized");
  expect(torch::empty({2}, torch::kMeta), "meta device");
  expect({}, "is not defined");
  expect(torch::ones({2}), "keeps for metadata", "__metadata__");
  expect(torch::ones({2}), "no UTF-8", "\xFF");
  expect(torch::ones({2}), "5000 bytes", std::string(5000, 'n'));
}

TEST(Safetensors, NothingIsLeftOfAFileThatCannotBeWritten) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "a");
  EXPECT_THROW(save_safetensors(folder / "a", {{"a", torch::ones({2})}}), c10::Error);
  EXPECT_THROW(save_safetensors(folder / "none" / "a", {{"a", torch::ones({2})}}), c10::Error);
  std::filesystem::remove(folder / "a");
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(SafetensorsShards, AreCutByBytesAndLoadAsOne) {
  const TemporaryFolder folder;
  Tensors tensors;
  for (const std::string name : {"a", "b", "c", "d"}) tensors[name] = torch::rand({100});
  tensors["huge"] = torch::rand({1000});
  const auto index = save_safetensors_shards(folder.path(), tensors, 800, {{"format", "pt"}});
  EXPECT_EQ(index, folder / "model.safetensors.index.json");
  for (const int shard : {1, 2, 3}) {
    EXPECT_TRUE(std::filesystem::exists(
        folder / ("model-0000" + std::to_string(shard) + "-of-00003.safetensors")));
  }
  for (const auto& path : {index, folder.path()}) {
    const auto found = load_safetensors(path);
    ASSERT_EQ(found.size(), tensors.size());
    for (const auto& [name, tensor] : tensors) EXPECT_TRUE(found.at(name).equal(tensor)) << name;
  }
  EXPECT_NE(read_bytes(index).find(R"("total_size":5600)"), std::string::npos);
}

void expect_load_error(const std::filesystem::path& path, const std::string& reason) {
  testing::expect_refusal([&] { static_cast<void>(load_safetensors(path)); }, reason);
}

TEST(SafetensorsShards, AFolderWithAnIndexAndAFileIsAmbiguous) {
  const TemporaryFolder folder;
  static_cast<void>(save_safetensors_shards(folder.path(), {{"a", torch::ones({1})}}, 100));
  save_safetensors(folder / "model.safetensors", {{"a", torch::zeros({1})}});
  expect_load_error(folder.path(), "name the one that is meant");
  EXPECT_EQ(load_safetensors(folder / "model.safetensors").at("a").item<float>(), 0);
}

TEST(SafetensorsShards, AnIndexThatDoesNotFitItsFilesIsAnError) {
  const TemporaryFolder folder;
  const auto index = folder / "model.safetensors.index.json";
  expect_load_error(folder.path(), "neither model.safetensors.index.json nor model.safetensors");
  save_safetensors(folder / "x.safetensors", {{"a", torch::ones({1})}, {"b", torch::ones({1})}});
  const auto expect = [&](const std::string& text, const std::string& reason) {
    write_bytes(index, text);
    expect_load_error(folder.path(), reason);
  };
  expect(R"({"weight_map":{"a":"x.safetensors"}})", "'b' is in this file, and the index");
  expect(R"({"weight_map":{"a":"x.safetensors","c":"x.safetensors"}})", "which does not have it");
  expect(R"({"weight_map":{"a":"../x.safetensors"}})", "no name of a file beside the index");
  expect(R"({"weight_map":{"a":"/etc/passwd"}})", "no name of a file beside the index");
  expect(R"({"weight_map":{"a":"gone.safetensors"}})", "cannot be opened");
  expect(R"({"weight_map":{"a":1}})", "the name of a file for each tensor, found 1");
  expect(R"({"weight_map":["a"]})", "the name of a file for each tensor");
  expect(R"({"metadata":{}})", "an object 'weight_map'");
  expect(R"([])", "an object, which begins with {");
  expect(R"({"weight_map":{"a":"x.safetensors","a":"x.safetensors"}})", "a second time");
  expect(R"({"metadata":{"total_size":1.5,"other":[null,{}]},)"
         R"("weight_map":{"a":"x.safetensors","b":"x.safetensors"},"x":1)",
         "expected in the index JSON");
  write_bytes(index, R"({"metadata":{"total_size":8,"other":[null,{}]},)"
                     R"("weight_map":{"a":"x.safetensors","b":"x.safetensors"},"x":1})");
  EXPECT_EQ(load_safetensors(folder.path()).size(), 2U);
}

TEST(SafetensorsShards, AnInterruptedSaveOverAnOlderOneCannotBeLoaded) {
  const TemporaryFolder folder;
  const Tensors tensors{{"a", torch::ones({100})}, {"b", torch::ones({100})}};
  const auto index = save_safetensors_shards(folder.path(), tensors, 400);
  // The second file cannot be replaced.
  std::filesystem::remove(folder / "model-00002-of-00002.safetensors");
  std::filesystem::create_directory(folder / "model-00002-of-00002.safetensors");
  EXPECT_THROW(static_cast<void>(save_safetensors_shards(folder.path(), tensors, 400)), c10::Error);
  EXPECT_FALSE(std::filesystem::exists(index));
  EXPECT_THROW(static_cast<void>(save_safetensors_shards(folder / "none", tensors, 400)),
               c10::Error);
  EXPECT_THROW(static_cast<void>(save_safetensors_shards(folder.path(), tensors, 0)), c10::Error);
}

}  // namespace
}  // namespace lockstep::training
