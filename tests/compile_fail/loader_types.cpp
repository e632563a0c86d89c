// SPDX-License-Identifier: BSD-3-Clause
// Programs that a loader refuses, one a line, with what the compiler must say.
#include <lockstep/data/loader/data_loader.h>
#include <lockstep/data/loader/dataset_registry.h>
#include <torch/data/samplers/sequential.h>

namespace {

using namespace lockstep::data;  // NOLINT(google-build-using-namespace)
using torch::data::Example;

struct Point {
  int x = 0;
};
struct OtherPoint {
  int x = 0;
};

template <class Sample>
struct Of {
  Sample get(std::size_t index);
  [[nodiscard]] std::size_t size() const;
};
struct NoSize {
  Example<> get(std::size_t index);
};
struct Nothing {};
struct Stream {
  void reset(std::size_t shard, std::size_t shards, std::int64_t epoch);
  std::optional<std::string> next();
};
struct NoNext {
  void reset(std::size_t shard, std::size_t shards, std::int64_t epoch);
};
struct NoIndices {
  [[nodiscard]] std::size_t size() const;
  [[nodiscard]] std::size_t dataset_size() const;
  void set_epoch(std::int64_t epoch);
};
struct HalfWay {};
using Good = Of<Example<>>;
struct Mapped : torch::data::datasets::Dataset<Mapped> {
  Example<> get(std::size_t index) override;
  [[nodiscard]] std::optional<std::size_t> size() const override;
};
struct Sum : torch::data::transforms::BatchTransform<std::vector<Example<>>, at::Tensor> {
  at::Tensor apply_batch(std::vector<Example<>> samples) override;
};

}  // namespace

template <>
struct lockstep::data::SampleCodec<HalfWay> {
  static SampleTree to_tree(const HalfWay& sample);
};

namespace {

// clang-format off
void refused() {
  const DataLoaderOptions options;
  DataLoader no_size(NoSize{}, options);  // refused: DataLoader: the dataset has no size()
  for (auto& batch : no_size) static_cast<void>(batch);
  DataLoader structs(Of<Point>{});  // refused: for a struct of your own, specialise lockstep::data::SampleCodec
  DataLoader optionals(Of<std::optional<Example<>>>{});  // refused: DataLoader: a sample has no std::optional in it
  DataLoader characters(Of<Example<at::Tensor, char>>{});  // refused: DataLoader: a char in a sample is neither a number nor a string
  DataLoader half(Of<HalfWay>{});  // refused: DataLoader: the SampleCodec of a sample's type is not complete
  DataLoader none(Nothing{}, options);  // refused: DataLoader: this class is no dataset
  DataLoader no_next(NoNext{}, options);  // refused: DataLoader: this class is no dataset
  DataLoader no_indices(Good{}, NoIndices{}, options);  // refused: DataLoader: the sampler gives no indices; it needs index(position)
  DataLoader torchs(Good{}, torch::data::samplers::SequentialSampler(10), options);  // refused: DataLoader: the second argument is neither options nor a sampler
  DataLoader numbers(Good{}, 64);  // refused: DataLoader: the second argument is neither options nor a sampler
  DataLoader streams(Stream{}, DistributedSampler(1, 1, 0));  // refused: DataLoader: an iterable dataset decides its order itself
  DataLoader collates(Good{}, options, [](int) { return 1; });  // refused: DataLoader: the collate function cannot be called with
  DataLoader gives(Good{}, options, [](std::vector<Example<>>) { return OtherPoint{}; });  // refused: for a struct of your own, specialise lockstep::data::SampleCodec
  DataLoader twice(Mapped().map(Sum()), options, [](at::Tensor batch) { return batch; });  // refused: DataLoader: the dataset's last transform makes a batch already
  DatasetRegistry().add("x", [](const std::string&) { return Of<std::vector<wchar_t>>{}; });  // refused: DataLoader: a char in a sample is neither a number nor a string
}

}  // namespace
