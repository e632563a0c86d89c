// SPDX-License-Identifier: BSD-3-Clause
// The snippets of the page about data loading, as parts of programs that run. check_snippets.py
// compares each `// [name]` part with the page.
#include <gtest/gtest.h>
#include <lockstep/data/loader/data_loader.h>
#include <lockstep/data/loader/dataset_registry.h>
#include <lockstep/data/loader/device_prefetcher.h>
#include <lockstep/workers/worker_pool.h>
#include <torch/torch.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <random>
#include <stdexcept>

namespace {

namespace data = lockstep::data;

std::vector<torch::Tensor> used;
void use(const torch::Tensor& batch, const torch::Tensor& target = {}) {
  used = {batch.clone(), target};
}

// [dataset]
struct Waves {
  torch::data::Example<> get(std::size_t index) {
    const auto frequency = static_cast<double>(index % 10 + 1);
    return {torch::sin(torch::linspace(0, frequency, 64)), torch::tensor(static_cast<int64_t>(index % 10))};
  }
  std::size_t size() const { return 1000; }
};
// [dataset]

TEST(DataPage, Loads) {
  // [load]
  data::DataLoader loader(Waves(), data::DataLoaderOptions().batch_size(64).workers(2).shuffle(true));
  for (int epoch = 0; epoch < 2; ++epoch) {
    loader.set_epoch(epoch);
    for (auto& batch : loader) use(batch.data, batch.target);
  }
  // [load]
  EXPECT_EQ(used[0].sizes(), (std::vector<std::int64_t>{1000 % 64, 64}));
}

// [random]
struct NoisyWaves : Waves {
  torch::data::Example<> get(std::size_t index, data::SampleRandom& random) {
    auto sample = Waves::get(index);
    if (random.bernoulli(0.5)) sample.data = sample.data.flip(0);
    sample.data *= random.uniform(0.9, 1.1);
    return sample;
  }
};
// [random]

// [engine]
struct ShuffledWaves : Waves {
  torch::data::Example<> get(std::size_t index, data::SampleRandom& random) {
    auto sample = Waves::get(index);
    std::mt19937 engine(random());                     // not a member: seeded anew for each sample
    auto* values = sample.data.mutable_data_ptr<float>();
    std::shuffle(values, values + 64, engine);
    return sample;
  }
};
// [engine]

// [in_place]
struct Counts {
  torch::data::Example<> get(std::size_t index) {      // the first sample says what all look like
    torch::data::Example<> sample{torch::empty({16}), torch::empty({}, torch::kLong)};
    get_into(index, bytes_of(sample.data), bytes_of(sample.target));
    return sample;
  }
  void get_into(std::size_t index, std::span<std::byte> data, std::span<std::byte> target) {
    auto* values = reinterpret_cast<float*>(data.data());
    std::iota(values, values + 16, static_cast<float>(index));
    *reinterpret_cast<std::int64_t*>(target.data()) = static_cast<std::int64_t>(index);
  }
  std::size_t size() const { return 1000; }

  static std::span<std::byte> bytes_of(const torch::Tensor& tensor) {
    return {static_cast<std::byte*>(tensor.mutable_data_ptr()), tensor.nbytes()};
  }
};
// [in_place]

TEST(DataPage, DrawsAndWritesInPlace) {
  const auto options = data::DataLoaderOptions().batch_size(8).workers(1);
  EXPECT_EQ(data::DataLoader(NoisyWaves(), options).begin()->data.size(0), 8);
  EXPECT_TRUE(torch::equal(data::DataLoader(ShuffledWaves(), options).begin()->data,
                           data::DataLoader(ShuffledWaves(), options).begin()->data));
  data::DataLoader loader(Counts(), options);
  EXPECT_EQ(loader.begin()->data[2][3].item<float>(), 5);
}

TEST(DataPage, Feeds) {
  const c10::Device device(torch::cuda::is_available() ? torch::kCUDA : torch::kCPU);
  // [feed]
  data::DataLoader loader(Waves(), data::DataLoaderOptions().batch_size(64).workers(2)
                                       .pin_memory(device.is_cuda()));
  for (int epoch = 0; epoch < 2; ++epoch) {
    loader.set_epoch(epoch);
    for (auto& batch : data::DevicePrefetcher(loader, device)) use(batch.data, batch.target);
  }
  // [feed]
  EXPECT_EQ(used[0].sizes(), (std::vector<std::int64_t>{1000 % 64, 64}));
  EXPECT_EQ(used[1].device().type(), device.type());
}

// [tree]
struct Captions {
  std::map<std::string, data::SampleTree> get(std::size_t index) {
    return {{"image", torch::rand({3, 8, 8})}, {"caption", "picture " + std::to_string(index)}};
  }
  std::size_t size() const { return 100; }
};
// [tree]

TEST(DataPage, TakesTrees) {
  // [use_tree]
  data::DataLoader loader(Captions(), data::DataLoaderOptions().batch_size(4).workers(2));
  for (auto& batch : loader) {
    use(batch.at("image").tensor());                   // {4, 3, 8, 8}
    std::string first = batch.at("caption")[0].string();
  }
  // [use_tree]
  EXPECT_EQ(used[0].sizes(), (std::vector<std::int64_t>{4, 3, 8, 8}));
}

struct LibTorchWaves : torch::data::datasets::Dataset<LibTorchWaves> {
  torch::data::Example<> get(std::size_t index) override { return Waves().get(index); }
  std::optional<std::size_t> size() const override { return 100; }
};

TEST(DataPage, MapsAsLibTorch) {
  // [map]
  data::DataLoader loader(LibTorchWaves().map(torch::data::transforms::Normalize<>(0.0, 2.0))
                                         .map(torch::data::transforms::Stack<>()),
                          data::DataLoaderOptions().batch_size(64).workers(2));
  for (auto& batch : loader) use(batch.data, batch.target);
  // [map]
  EXPECT_TRUE(torch::equal(used[0][35].view(-1), Waves().get(99).data / 2));  // of pictures: {1, 1, 64}
}

struct PicturesWithABrokenOne : Waves {
  torch::data::Example<> get(std::size_t index) {
    if (index == 7) throw std::runtime_error("broken");
    return Waves::get(index);
  }
};

TEST(DataPage, ReplacesSamples) {
  const PicturesWithABrokenOne pictures;
  // [policy]
  data::DataLoader loader(pictures, data::DataLoaderOptions().batch_size(64).workers(2)
                                        .on_failed_sample(data::SamplePolicy::Replace));
  for (auto& batch : loader) use(batch.data, batch.target);
  std::uint64_t broken = loader.statistics().replaced_samples;    // of Skip: skipped_samples
  // [policy]
  EXPECT_EQ(broken, 1U);
}

struct Sentences {
  torch::Tensor get(std::size_t index) { return torch::ones({static_cast<int64_t>(index % 7 + 1)}); }
  std::size_t size() const { return 100; }
};

TEST(DataPage, Collates) {
  // [collate]
  auto pad = [](std::vector<torch::Tensor> sentences) {  // runs in a worker
    return torch::nn::utils::rnn::pad_sequence(sentences, /*batch_first=*/true);
  };
  data::DataLoader loader(Sentences(), data::DataLoaderOptions().batch_size(16).workers(2), pad);
  // [collate]
  EXPECT_EQ(loader.begin()->sizes(), (std::vector<std::int64_t>{16, 7}));
}

// [iterable]
struct Lines {
  std::vector<std::string> paths;
  std::size_t next_path = 0, step = 1;
  std::ifstream file;

  explicit Lines(std::vector<std::string> files) : paths(std::move(files)) {}
  Lines(const Lines& other) : paths(other.paths) {}    // each shard reads with a copy
  void reset(std::size_t shard, std::size_t shards, std::int64_t /*epoch*/) {
    next_path = shard;
    step = shards;
    file.close();
  }
  std::optional<std::string> next() {
    std::string line;
    while (!std::getline(file, line)) {
      if (next_path >= paths.size()) return std::nullopt;
      file = std::ifstream(paths[next_path]);
      if (!file) throw std::runtime_error(paths[next_path] + ": cannot be opened");
      next_path += step;
    }
    return line;
  }
};
// [iterable]

struct World {
  int own_rank;
  int rank() const { return own_rank; }
  int size() const { return 2; }
};

TEST(DataPage, Iterates) {
  const auto folder = std::filesystem::temp_directory_path() /
                      ("lockstep_data_page_" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  std::vector<std::string> paths;
  for (const char* name : {"a", "b", "c"}) {
    paths.push_back(folder / name);
    std::ofstream(paths.back()) << name << "1\n" << name << "2\n";
  }
  std::size_t lines = 0;
  for (const World& one : {World{0}, World{1}}) {
    const auto* group = &one;
    // [use_iterable]
    data::DataLoader loader(Lines(paths), data::DataLoaderOptions().batch_size(32).workers(2).shards(4)
                                              .rank(group->rank()).world_size(group->size()));
    for (std::vector<std::string>& batch : loader) lines += batch.size();
    // [use_iterable]
  }
  EXPECT_EQ(lines, 6U);
  data::DataLoader missing(Lines({folder / "missing"}), data::DataLoaderOptions());
  EXPECT_THROW(static_cast<void>(*missing.begin()), data::WorkerError);
  std::filesystem::remove_all(folder);
}

TEST(DataPage, GoesOnAfterErrors) {
  data::DataLoader loader(Waves(), data::DataLoaderOptions().batch_size(100).workers(2));
  // [errors]
  for (auto it = loader.begin(); it != loader.end(); ++it) {
    try {
      use(it->data, it->target);
    } catch (const data::WorkerError& error) {         // sample_index(), sample_path(), signal(), ...
      std::string what = error.what();
    }
  }
  // [errors]
  EXPECT_EQ(used[0].size(0), 100);
}

TEST(DataPage, Reports) {
  data::DataLoader loader(Waves(), data::DataLoaderOptions().batch_size(100).workers(2));
  for (auto& batch : loader) use(batch.data);
  // [statistics]
  const data::LoaderStatistics statistics = loader.statistics();
  std::string advice = statistics.bottleneck();        // "consumer: ...", "decode: ...", ...
  double waiting = statistics.stall_share();
  // [statistics]
  EXPECT_FALSE(advice.empty());
  EXPECT_GE(waiting, 0);
}

std::string shrink(const std::string& path) { return path + ".small"; }

TEST(DataPage, Preprocesses) {
  const std::vector<std::string> paths{"a", "b"};
  // [pool]
  lockstep::WorkerPool pool(lockstep::WorkerPoolOptions().workers(4));
  std::vector<std::string> written = pool.map(paths, [](const std::string& path) { return shrink(path); });
  // [pool]
  EXPECT_EQ(written[1], "b.small");
}

// [spawn]
int program(const std::string& root) {
  data::DatasetRegistry registry;
  registry.add("waves", [](const std::string& /*config*/) { return Waves(); });
  if (auto status = data::maybe_worker_main(registry)) return *status;   // first of all in main

  data::DataLoader loader(Waves(), data::DataLoaderOptions().batch_size(64).workers(2)
                                       .kind(data::WorkerKind::Spawn).spawn("waves", root));
  for (auto& batch : loader) use(batch.data, batch.target);
  return 0;
}
// [spawn]

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::string(argv[1]) == "spawn") return program("");
  if (std::getenv("LOCKSTEP_DATA_WORKER") != nullptr) return program("");
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
