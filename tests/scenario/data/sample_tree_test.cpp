// SPDX-License-Identifier: BSD-3-Clause
// Samples of any form, collate functions, and batches that do not fit.
#include <map>
#include <tuple>

#include "data/samples/sample_layout.h"
#include "support/loader_test_support.h"

namespace lockstep::data {
namespace {

using SampleTreeTest = NothingLeftBehind;

torch::Tensor number(std::size_t index) {
  return torch::full({2}, static_cast<double>(index));
}

// A dataset of what a function makes of an index.
template <class Make>
struct Made {
  Make make;
  std::size_t count = 10;
  auto get(std::size_t index) { return make(index); }
  std::size_t size() const { return count; }
};
template <class Make>
Made(Make) -> Made<Make>;

const std::vector<DataLoaderOptions>& every_kind() {
  static const std::vector<DataLoaderOptions> all{options_with(0), options_with(1), options_with(3),
                                                  options_with(2).kind(WorkerKind::Thread)};
  return all;
}

TEST_F(SampleTreeTest, TensorsAndNumbersAreStacked) {
  for (const auto& options : every_kind()) {
    DataLoader tensors(Made{[](std::size_t index) { return number(index); }}, options);
    EXPECT_TRUE(
        torch::equal(*tensors.begin(), torch::stack({number(0), number(1), number(2), number(3)})));
    DataLoader numbers(Made{[](std::size_t index) { return static_cast<std::int32_t>(index); }},
                       options);
    EXPECT_TRUE(torch::equal(*numbers.begin(), torch::arange(4, torch::kInt)));
    static_assert(std::is_same_v<decltype(numbers)::Batch, torch::Tensor>);
  }
}

TEST_F(SampleTreeTest, TreesKeepTheirForm) {
  const auto make = [](std::size_t index) {
    std::map<std::string, torch::Tensor> parts{{"image", number(index)},
                                               {"mask", number(index) > 1}};
    return std::make_tuple(parts, std::vector<torch::Tensor>{number(index), number(2 * index)},
                           std::pair<double, bool>{0.5 * static_cast<double>(index), index == 1});
  };
  for (const auto& options : every_kind()) {
    DataLoader loader(Made{make}, options);
    std::int64_t first = 0;
    for (auto& [parts, list, pair] : loader) {
      const auto rows = std::min<std::int64_t>(4, 10 - first);
      const auto index = torch::arange(first, first + rows, torch::kDouble);
      EXPECT_TRUE(
          torch::equal(parts.at("image"), index.unsqueeze(1).expand({rows, 2}).to(torch::kFloat)));
      EXPECT_EQ(parts.at("mask").dtype(), torch::kBool);
      EXPECT_EQ(list.size(), 2U);
      EXPECT_TRUE(torch::equal(list[1], 2 * parts.at("image")));
      EXPECT_TRUE(torch::equal(pair.first, 0.5 * index));
      EXPECT_TRUE(torch::equal(pair.second, index == 1));
      first += rows;
    }
    EXPECT_EQ(first, 10);
  }
}

TEST_F(SampleTreeTest, TextsAndBytesBecomeVectors) {
  const auto make = [](std::size_t index) {
    return std::map<std::string, SampleTree>{{"text", std::string(index * 1000, 'a')},
                                             {"bytes", Bytes(index, std::byte{7})},
                                             {"tensor", number(index)},
                                             {"nothing", SampleTree()}};
  };
  for (const auto& options : every_kind()) {
    DataLoader loader(Made{make}, options);
    std::size_t first = 0;
    for (auto& batch : loader) {
      for (std::size_t row = 0; row < batch.at("text").list().size(); ++row, ++first) {
        EXPECT_EQ(batch.at("text")[row].string(), std::string(first * 1000, 'a'));
        EXPECT_EQ(batch.at("bytes")[row].bytes(), Bytes(first, std::byte{7}));
        EXPECT_TRUE(torch::equal(batch.at("tensor").tensor()[static_cast<std::int64_t>(row)],
                                 number(first)));
      }
      EXPECT_TRUE(batch.at("nothing").is_nothing());
    }
    EXPECT_EQ(first, 10U);
    DataLoader names(Made{[](std::size_t index) {
                       return torch::data::Example<torch::Tensor, std::string>(
                           number(index), "n" + std::to_string(index));
                     }},
                     options);
    EXPECT_EQ(names.begin()->target, (std::vector<std::string>{"n0", "n1", "n2", "n3"}));
  }
}

TEST_F(SampleTreeTest, RaggedSamplesNeedACollateFunction) {
  const auto make = [](std::size_t index) {
    return torch::full({static_cast<std::int64_t>(index % 3)}, static_cast<double>(index));
  };
  struct Packed {
    torch::Tensor values;
    torch::Tensor offsets;
  };
  const auto pack = [](std::vector<torch::Tensor> samples) {
    std::vector<std::int64_t> offsets{0};
    for (const auto& sample : samples) offsets.push_back(offsets.back() + sample.size(0));
    return std::make_pair(torch::cat(samples), torch::tensor(offsets));
  };
  for (const auto& options : every_kind()) {
    DataLoader stacked(Made{make}, options);
    const auto error = error_of_pass(stacked);
    ASSERT_TRUE(error);
    EXPECT_NE(error->original_message().find("Float [1]"), std::string::npos) << error->what();
    EXPECT_NE(error->original_message().find("Float [0]"), std::string::npos) << error->what();
    DataLoader packed(Made{make}, options, pack);
    auto it = packed.begin();
    EXPECT_TRUE(torch::equal(it->first, torch::tensor({1., 2., 2.}, torch::kFloat)));
    EXPECT_TRUE(torch::equal(it->second, torch::tensor({0, 0, 1, 3, 3})));
    ++it;
    EXPECT_TRUE(torch::equal(it->first, torch::tensor({4., 5., 5., 7.}, torch::kFloat)));
  }
}

TEST_F(SampleTreeTest, CollateMayThrow) {
  for (const auto& options : every_kind()) {
    DataLoader loader(Made{[](std::size_t index) { return number(index); }}, options,
                      [](std::vector<torch::Tensor> samples) -> torch::Tensor {
                        TORCH_CHECK(samples[0][0].item<float>() != 4, "not this one");
                        return torch::stack(samples);
                      });
    int errors = 0;
    int batches = 0;
    for (auto it = loader.begin(); it != loader.end(); ++it) {
      try {
        batches += it->defined();
      } catch (const WorkerError& error) {
        ++errors;
        EXPECT_EQ(error.batch_index(), 1);
        EXPECT_NE(error.original_message().find("not this one"), std::string::npos);
      }
    }
    EXPECT_EQ(errors, 1);
    EXPECT_EQ(batches, 2);
  }
}

TEST_F(SampleTreeTest, BatchesThatDoNotFitGetMemoryOfTheirOwn) {
  const auto make = [](std::size_t index) {
    return torch::full({index % 8 == 6 ? 100'000 : 10}, static_cast<double>(index));
  };
  const auto first = [](std::vector<torch::Tensor> samples) { return samples; };
  {
    Made dataset{make};
    dataset.count = 80;
    DataLoader loader(dataset, options_with(2), first);
    std::vector<torch::Tensor> kept;
    std::size_t index = 0;
    for (auto& batch : loader) {
      for (auto& tensor : batch) EXPECT_TRUE(torch::equal(tensor, make(index++)));
      if (batch[2].size(0) > 10) kept.push_back(batch[2]);
    }
    EXPECT_EQ(index, 80U);
    EXPECT_EQ(loader.statistics().oversize, 10U);
    ASSERT_EQ(kept.size(), 10U);
    EXPECT_TRUE(torch::equal(kept[9], make(78)));
  }
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    EXPECT_EQ(line.find("lockstep-data"), std::string::npos) << line;
  }
}

TEST_F(SampleTreeTest, SamplesThatCannotBeSharedAreNamed) {
  DataLoader sparse(Made{[](std::size_t) { return torch::eye(3).to_sparse(); }}, options_with(1));
  EXPECT_NE(error_of_pass(sparse)->original_message().find("dense tensor on the CPU"),
            std::string::npos);
  DataLoader undefined(Made{[](std::size_t) { return torch::data::Example<>(); }}, options_with(1));
  EXPECT_NE(error_of_pass(undefined)->original_message().find("undefined tensor"),
            std::string::npos);
  DataLoader changing(Made{[](std::size_t index) {
                        std::map<std::string, torch::Tensor> sample{{"a", number(index)}};
                        if (index == 3) sample.emplace("b", number(index));
                        return sample;
                      }},
                      options_with(1));
  const auto text = error_of_pass(changing)->original_message();
  EXPECT_NE(text.find("a map with 'a' 'b'; in the first sample it was a map with 'a'"),
            std::string::npos)
      << text;
}

TEST_F(SampleTreeTest, ValueSaysWhatItIs) {
  const SampleTree value(SampleTree::Map{{"a", number(1)}, {"b", SampleTree::List{"x", Bytes(2)}}});
  EXPECT_EQ(value["b"][0].string(), "x");
  EXPECT_NE(message_of([&] { static_cast<void>(value["c"]); }).find("has no 'c'"),
            std::string::npos);
  EXPECT_NE(message_of([&] { static_cast<void>(value["b"][2]); }).find("has no number 2"),
            std::string::npos);
  EXPECT_NE(message_of([&] {
              static_cast<void>(value["a"].string());
            }).find("is Float [2], not a string"),
            std::string::npos);
}

// What one process writes another checks: every cut and every changed byte is an error or a
// structure that fits into its memory, and never a crash.
TEST_F(SampleTreeTest, FormsFromAnotherProcessAreChecked) {
  const SampleTree value(SampleTree::Map{
      {"a", number(1)},
      {"b", SampleTree::List{"text", Bytes(9), SampleTree(), torch::ones({3, 1, 2})}}});
  std::size_t bytes = 0;
  const auto layout = SampleLayout::of_whole(value, bytes);
  const auto form = layout.to_bytes();
  const auto read = [&](const std::string& text) {
    return SampleLayout::from_bytes(std::as_bytes(std::span(text)), bytes);
  };
  EXPECT_EQ(read(form).to_bytes(), form);
  for (std::size_t length = 0; length < form.size(); ++length) {
    EXPECT_THROW(static_cast<void>(read(form.substr(0, length))), c10::Error) << length;
  }
  const std::function<void(const SampleLayout&)> check = [&](const SampleLayout& part) {
    EXPECT_LE(part.offset + part.bytes, bytes);
    for (const auto& child : part.children) check(child);
  };
  int refused = 0;
  for (std::size_t place = 0; place < form.size(); ++place) {
    for (const int change : {1, 0x80, 0xff}) {
      auto damaged = form;
      damaged[place] = static_cast<char>(damaged[place] ^ change);
      try {
        check(read(damaged));
      } catch (const c10::Error&) {
        ++refused;
      }
    }
  }
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace lockstep::data
