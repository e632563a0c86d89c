// SPDX-License-Identifier: BSD-3-Clause
// Datasets and samples of the types that programs bring along: LibTorch's own with transforms,
// numbers of all kinds; and loops of the standard library's kind.
#include <limits>
#include <ranges>
#include <type_traits>

#include <lockstep/data/loader/device_prefetcher.h>

#include "support/loader_test_support.h"

namespace lockstep::data {
namespace {

using LoaderTypesTest = NothingLeftBehind;
using torch::data::Example;
using torch::data::transforms::BatchTransform;
using torch::data::transforms::Normalize;
using torch::data::transforms::Stack;

static_assert(std::ranges::input_range<DataLoader<Numbers>>);
static_assert(std::ranges::input_range<DevicePrefetcher<DataLoader<Numbers>>>);
static_assert(std::input_iterator<DataLoader<Numbers>::Iterator>);

struct Pictures : torch::data::datasets::Dataset<Pictures> {
  Example<> get(std::size_t index) override {
    const auto value = static_cast<std::int64_t>(index);
    return {torch::full({1, 2, 2}, static_cast<double>(value)), torch::tensor(value)};
  }
  [[nodiscard]] std::optional<std::size_t> size() const override { return 10; }
  [[nodiscard]] std::string describe(std::size_t index) const {
    return "picture " + std::to_string(index);
  }
};

// Of the whole batch, so that each sample depends on the others.
struct Mix : BatchTransform<std::vector<Example<>>, std::vector<Example<>>> {
  std::vector<Example<>> apply_batch(std::vector<Example<>> samples) override {
    for (std::size_t i = 0; i + 1 < samples.size(); ++i) samples[i].data += samples[i + 1].data;
    return samples;
  }
};
struct Sum : BatchTransform<std::vector<Example<>>, torch::Tensor> {
  torch::Tensor apply_batch(std::vector<Example<>> samples) override {
    auto sum = torch::zeros({1, 2, 2});
    for (const auto& sample : samples) sum += sample.data;
    return sum;
  }
};

std::vector<DataLoaderOptions> every_kind_of_worker() {
  return {options_with(0), options_with(1), options_with(3),
          options_with(2).kind(WorkerKind::Thread)};
}

// What LibTorch's own loader asks of such a dataset.
template <class Dataset>
auto batch_of(Dataset dataset, std::size_t first, std::size_t last) {
  std::vector<std::size_t> indices;
  for (auto index = first; index < last; ++index) indices.push_back(index);
  return dataset.get_batch(indices);
}

TEST_F(LoaderTypesTest, MappedDatasetsGiveWhatLibTorchGives) {
  for (const auto& options : every_kind_of_worker()) {
    const auto stacked = [] { return Pictures().map(Normalize<>(0.5, 2.0)).map(Stack<>()); };
    const auto mixed = [] {
      return Pictures().map(Mix()).map(Normalize<>(0.5, 2.0)).map(Stack<>());
    };
    const auto check = [&](const auto& make) {
      DataLoader loader(make(), options);
      std::size_t first = 0;
      for (auto& batch : loader) {
        const auto expected = batch_of(make(), first, std::min<std::size_t>(first + 4, 10));
        EXPECT_TRUE(torch::equal(batch.data, expected.data));
        EXPECT_TRUE(torch::equal(batch.target, expected.target));
        first += 4;
      }
      EXPECT_EQ(first, 12U);
    };
    check(stacked);
    check(mixed);
    DataLoader sums(Pictures().map(Sum()), options);
    EXPECT_TRUE(torch::equal(*sums.begin(), batch_of(Pictures().map(Sum()), 0, 4)));
    // Without Stack: samples, which the loader stacks, or collates.
    DataLoader open(Pictures().map(Mix()), options);
    EXPECT_TRUE(torch::equal(open.begin()->data, batch_of(mixed(), 0, 4).data * 2 + 0.5));
    DataLoader collated(Pictures().map(Normalize<>(0.5, 2.0)), options,
                        [](std::vector<Example<>> samples) { return samples.back().data; });
    EXPECT_TRUE(torch::equal(*collated.begin(), batch_of(stacked(), 3, 4).data[0]));
  }
}

// The loader's own way for samples: rows, errors that name a sample.
TEST_F(LoaderTypesTest, MappedDatasetKeepsItsSamples) {
  struct Broken : torch::data::transforms::Transform<Example<>, Example<>> {
    Example<> apply(Example<> sample) override {
      TORCH_CHECK(sample.target.item<std::int64_t>() != 6, "broken");
      return sample;
    }
  };
  for (const auto& options : every_kind_of_worker()) {
    DataLoader loader(Pictures().map(Broken()).map(Stack<>()), options);
    const auto error = error_of_pass(loader);
    ASSERT_TRUE(error);
    EXPECT_EQ(error->sample_index(), 6);
    EXPECT_EQ(error->sample_path(), "picture 6");
  }
}

TEST_F(LoaderTypesTest, DatasetsWithGetBatchAloneGiveTheirSamples) {
  struct Batches : torch::data::datasets::BatchDataset<Batches> {
    std::vector<Example<>> get_batch(c10::ArrayRef<std::size_t> indices) override {
      std::vector<Example<>> samples;
      for (const auto index : indices) samples.push_back(Pictures().get(index));
      return samples;
    }
    [[nodiscard]] std::optional<std::size_t> size() const override { return 10; }
  };
  for (const auto& options : every_kind_of_worker()) {
    DataLoader loader(Batches(), options);
    EXPECT_EQ(targets_of(loader).samples, in_order(10).indices());
  }
}

template <class T>
void expect_numbers(at::ScalarType dtype) {
  struct Extremes {
    std::pair<T, T> get(std::size_t) {
      return {std::numeric_limits<T>::lowest(), std::numeric_limits<T>::max()};
    }
    std::size_t size() const { return 2; }
  };
  const auto first = [](std::vector<std::pair<T, T>> samples) { return samples[0].second; };
  for (const int workers : {0, 1}) {
    DataLoader loader(Extremes{}, options_with(workers));
    const auto batch = *loader.begin();
    EXPECT_EQ(batch.first.scalar_type(), dtype);
    EXPECT_EQ(static_cast<const T*>(batch.first.const_data_ptr())[1],
              std::numeric_limits<T>::lowest());
    EXPECT_EQ(static_cast<const T*>(batch.second.const_data_ptr())[0],
              std::numeric_limits<T>::max());
    DataLoader collated(Extremes{}, options_with(workers), first);
    EXPECT_EQ(*collated.begin(), std::numeric_limits<T>::max());
  }
}

TEST_F(LoaderTypesTest, NumbersOfAllTypesComeBackAsTheyWere) {
  expect_numbers<bool>(at::kBool);
  expect_numbers<signed char>(at::kChar);
  expect_numbers<unsigned char>(at::kByte);
  expect_numbers<short>(at::kShort);            // NOLINT(google-runtime-int)
  expect_numbers<unsigned short>(at::kUInt16);  // NOLINT(google-runtime-int)
  expect_numbers<int>(at::kInt);
  expect_numbers<unsigned>(at::kUInt32);
  expect_numbers<long>(at::kLong);                  // NOLINT(google-runtime-int)
  expect_numbers<unsigned long>(at::kUInt64);       // NOLINT(google-runtime-int)
  expect_numbers<long long>(at::kLong);             // NOLINT(google-runtime-int)
  expect_numbers<unsigned long long>(at::kUInt64);  // NOLINT(google-runtime-int)
  expect_numbers<float>(at::kFloat);
  expect_numbers<double>(at::kDouble);
}

TEST_F(LoaderTypesTest, NumbersInMapsOfValuesAreNumbers) {
  struct Labelled {
    std::map<std::string, SampleTree> get(std::size_t index) {
      return {{"label", 0},
              {"score", 0.5F},
              {"is_good", true},
              {"name", "n"},
              {"index", static_cast<std::int64_t>(index)}};
    }
    std::size_t size() const { return 3; }
  };
  for (const auto& options : every_kind_of_worker()) {
    DataLoader loader(Labelled(), options);
    auto batch = *loader.begin();
    EXPECT_TRUE(torch::equal(batch.at("label").tensor(), torch::zeros({3}, torch::kInt)));
    EXPECT_TRUE(torch::equal(batch.at("score").tensor(), torch::full({3}, 0.5)));
    EXPECT_TRUE(batch.at("is_good").tensor().all().item<bool>());
    EXPECT_TRUE(torch::equal(batch.at("index").tensor(), torch::arange(3)));
    EXPECT_EQ(batch.at("name")[2].string(), "n");
  }
  static_assert(!std::is_constructible_v<SampleTree, std::nullptr_t> &&
                !std::is_constructible_v<SampleTree, char>);
  const char* missing = nullptr;
  EXPECT_NE(message_of([&] { const SampleTree value(missing); }).find("null pointer"),
            std::string::npos);
}

TEST_F(LoaderTypesTest, LoaderIsARangeOfTheStandardLibrary) {
  for (const int workers : {0, 2}) {
    DataLoader loader(Numbers{20}, options_with(workers));
    std::vector<std::int64_t> seen;
    for (auto& batch : loader | std::views::take(2)) {
      seen.push_back(batch.target[0].item<std::int64_t>());
    }
    EXPECT_EQ(seen, (std::vector<std::int64_t>{0, 4}));
    EXPECT_EQ(std::ranges::count_if(loader, [](const auto& batch) { return batch.data.defined(); }),
              5);
  }
}

}  // namespace
}  // namespace lockstep::data
