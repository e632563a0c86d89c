// SPDX-License-Identifier: BSD-3-Clause
// The snippets of the page about reading ahead. check_snippets.py compares each `// [name]` part
// with the page.
#include <gtest/gtest.h>
#include <lockstep/data/file_parts.h>
#include <lockstep/data/loader/data_loader.h>
#include <torch/torch.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

namespace data = lockstep::data;

torch::Tensor read_volume(const std::string& path) {
  return torch::full({4}, static_cast<std::int64_t>(std::filesystem::file_size(path)));
}

// [files]
struct Volumes {
  std::vector<std::string> paths;

  torch::Tensor get(std::size_t index) const { return read_volume(paths[index]); }
  std::size_t size() const { return paths.size(); }

  void files_of(std::size_t index, data::FileParts& parts) const { parts.add(paths[index]); }
};
// [files]

TEST(ReadAheadPage, Files) {
  std::string folder = (std::filesystem::temp_directory_path() / "lockstep-page-XXXXXX").string();
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  std::vector<std::string> paths;
  for (int number = 0; number < 5; ++number) {
    paths.push_back(folder + "/" + std::to_string(number));
    std::ofstream(paths.back()) << std::string(static_cast<std::size_t>(number), 'x');
  }
  // [loader]
  data::DataLoader loader(Volumes{paths}, data::DataLoaderOptions().batch_size(2).workers(2)
                                              .read_ahead(16));
  // [loader]
  std::int64_t sum = 0;
  for (auto& batch : loader) sum += batch.sum().item<std::int64_t>();
  EXPECT_EQ(sum, 4 * (0 + 1 + 2 + 3 + 4));
  std::filesystem::remove_all(folder);
}

// A client that answers in a thread of its own.
struct StoreClient {
  void get(const std::string& name, std::function<void(bool is_there, std::string body)> done) {
    std::thread([name, done = std::move(done)] { done(name != "sample/404", name); }).detach();
  }
};

// [async]
struct RemoteSamples {
  std::shared_ptr<StoreClient> client;    // has threads, which do not survive a fork

  std::future<std::string> get_async(std::size_t index) {
    if (!client) client = std::make_shared<StoreClient>();
    auto reply = std::make_shared<std::promise<std::string>>();
    client->get(name_of(index), [reply](bool is_there, std::string body) {
      if (is_there) return reply->set_value(std::move(body));
      reply->set_exception(std::make_exception_ptr(std::runtime_error("the store lacks " + body)));
    });
    return reply->get_future();
  }

  // Runs in the worker, at the sample's turn, with the random numbers of the sample.
  torch::Tensor decode(std::size_t /*index*/, const std::string& body, data::SampleRandom& random) {
    return torch::tensor(static_cast<std::int64_t>(body.size())) + random.uniform(0.0, 0.1);
  }

  torch::Tensor get(std::size_t index, data::SampleRandom& random) {    // with in_flight(0)
    return decode(index, get_async(index).get(), random);
  }
  std::size_t size() const { return 300; }

  static std::string name_of(std::size_t index) { return "sample/" + std::to_string(index); }
};
// [async]

TEST(ReadAheadPage, Remote) {
  // [in_flight]
  data::DataLoader loader(RemoteSamples(), data::DataLoaderOptions()
                                               .batch_size(32)
                                               .workers(2)
                                               .in_flight(64)                       // for each worker
                                               .timeout(std::chrono::seconds(60))   // for a sample at its turn
                                               .on_failed_sample(data::SamplePolicy::Skip));
  // [in_flight]
  std::int64_t samples = 0;
  for (auto& batch : loader) samples += batch.size(0);
  EXPECT_EQ(samples, 300);
}

}  // namespace
