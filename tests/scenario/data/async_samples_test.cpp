// SPDX-License-Identifier: BSD-3-Clause
// Datasets that fetch samples from elsewhere, several at a time.
#include <algorithm>
#include <future>
#include <numeric>

#include <lockstep/data/samplers/weighted_random_sampler.h>

#include "support/loader_test_support.h"

namespace lockstep::data {
namespace {

using std::chrono::milliseconds;
using AsyncSamplesTest = NothingLeftBehind;

torch::data::Example<> sample_of(std::size_t index) {
  return {torch::full({2}, static_cast<double>(index), torch::kDouble) / 7,
          torch::tensor(static_cast<std::int64_t>(index))};
}

// A store that answers in another order than it was asked: each thread takes its time.
struct Remote {
  std::size_t count = 40;
  // What all processes of a test see: [0] under way, [1] the most so far, [2] calls, [3] answers.
  std::atomic<int>* words = nullptr;
  std::function<void(std::size_t index)> answer = [](std::size_t) {};

  std::future<torch::data::Example<>> get_async(std::size_t index) {
    if (words != nullptr) {
      ++words[2];
      const int now = ++words[0];
      for (int most = words[1]; most < now && !words[1].compare_exchange_weak(most, now);) {
      }
    }
    return std::async(std::launch::async, [words = words, answer = answer, index] {
      std::this_thread::sleep_for(milliseconds(index * 7919 % 5));
      struct Done {
        std::atomic<int>* words;
        ~Done() {
          if (words == nullptr) return;
          ++words[3];
          --words[0];  // last: the test that waits for it may unmap the words
        }
      } done{words};
      answer(index);
      return sample_of(index);
    });
  }
  torch::data::Example<> get(std::size_t index) {
    answer(index);
    return sample_of(index);
  }
  std::size_t size() const { return count; }
};
static_assert(GetsAsync<Remote> && !GetsAsync<Numbers>);

struct AsyncKind {
  std::int64_t workers;
  WorkerKind kind;
};
constexpr std::array kAllKinds{AsyncKind{0, WorkerKind::Process}, AsyncKind{1, WorkerKind::Process},
                               AsyncKind{2, WorkerKind::Process}, AsyncKind{2, WorkerKind::Thread}};

template <class Dataset, class Change>
std::vector<torch::Tensor> tensors_of(const Dataset& dataset, const DataLoaderOptions& options,
                                      const Change& change) {
  DataLoader<Dataset> loader(dataset, options);
  std::vector<torch::Tensor> all;
  for (int epoch = 0; epoch < 3; ++epoch) {
    loader.set_epoch(epoch);
    std::size_t count = 0;
    for (auto& batch : loader) {
      all.push_back(batch.data.clone());
      all.push_back(batch.target.clone());
      if (change(epoch, ++count)) break;
    }
  }
  return all;
}
template <class Dataset>
std::vector<torch::Tensor> tensors_of(const Dataset& dataset, const DataLoaderOptions& options) {
  return tensors_of(dataset, options, [](int, std::size_t) { return false; });
}

void expect_equal(const std::vector<torch::Tensor>& some,
                  const std::vector<torch::Tensor>& others) {
  ASSERT_EQ(some.size(), others.size());
  for (std::size_t at = 0; at < some.size(); ++at) {
    EXPECT_TRUE(torch::equal(some[at], others[at])) << "tensor " << at;
  }
}

TEST_F(AsyncSamplesTest, BatchesAreThoseOfGet) {
  const auto options = options_with(0, 6).shuffle(true).seed(3);
  const auto expected = tensors_of(Remote{}, DataLoaderOptions(options).in_flight(0));
  const auto breaks = [](int epoch, std::size_t count) { return epoch == 1 && count == 3; };
  const auto broken = tensors_of(Remote{}, DataLoaderOptions(options).in_flight(0), breaks);
  for (const auto& [workers, kind] : kAllKinds) {
    for (const int in_flight : {1, 5, 100}) {
      const auto other =
          DataLoaderOptions(options).workers(workers).kind(kind).in_flight(in_flight);
      expect_equal(tensors_of(Remote{}, other), expected);
      expect_equal(tensors_of(Remote{}, other, breaks), broken);
    }
  }
}

TEST_F(AsyncSamplesTest, SoManyAreUnderWayAndNoMore) {
  for (const auto& [workers, kind] : kAllKinds) {
    SharedCounters counters;
    // Nobody answers before so many have been asked, as far as there are.
    Remote dataset{40, counters.words};
    const int most = 6;
    dataset.answer = [&counters](std::size_t) {
      if (counters.words[3] != 0) return;
      eventually([&counters] { return counters.words[1] >= most || counters.words[3] != 0; });
    };
    DataLoader loader(dataset, options_with(workers, 8).kind(kind).in_flight(most));
    const auto pass = targets_of(loader);
    EXPECT_EQ(pass.samples.size(), 40U);
    EXPECT_TRUE(pass.errors.empty());
    EXPECT_GE(counters.words[1], most);
    EXPECT_LE(counters.words[1], most * std::max<int>(1, static_cast<int>(workers)));
  }
}

// At each sample of a batch, not only at its first.
TEST_F(AsyncSamplesTest, SoManyAreUnderWayToTheEndOfABatch) {
  for (const auto& [workers, kind] :
       {AsyncKind{0, WorkerKind::Process}, AsyncKind{1, WorkerKind::Process},
        AsyncKind{1, WorkerKind::Thread}}) {
    SharedCounters counters;
    Remote dataset{40, counters.words};
    const int most = 6;
    std::atomic<int>& has_failed = counters.words[7];
    // Nobody answers before so many behind it have been asked.
    dataset.answer = [&](std::size_t index) {
      const int wanted = std::min(static_cast<int>(index) + most, 40);
      if (has_failed != 0) return;
      if (!eventually([&] { return counters.words[2] >= wanted || has_failed != 0; })) {
        has_failed = static_cast<int>(index);
      }
    };
    DataLoader loader(dataset, options_with(workers, 40).kind(kind).in_flight(most));
    EXPECT_EQ(targets_of(loader).samples.size(), 40U);
    EXPECT_EQ(has_failed, 0) << "a sample was alone";
    EXPECT_LE(counters.words[1], most);
  }
}

// In the calling thread, where nothing is begun between two batches.
TEST_F(AsyncSamplesTest, APassThatBreaksOffLeavesRoomForTheNext) {
  SharedCounters counters;
  Remote dataset{40, counters.words};
  const int most = 6;
  std::atomic<int>& is_last = counters.words[5];
  // Nobody answers before so many have been asked, but each gives up after a while: a future of the
  // pass before may be ready a moment after `words` says so, and takes the place of one until then.
  // The loader waits for the first sample meanwhile, and sees the room at the next one.
  dataset.answer = [&](std::size_t) {
    if (is_last == 0) return;
    eventually([&] { return counters.words[1] >= most; }, milliseconds(200));
  };
  DataLoader loader(dataset, options_with(0, 8).in_flight(most).shuffle(true));
  for (int passes = 0; passes < 4; ++passes) {
    loader.set_epoch(passes);
    auto batch = loader.begin();
    static_cast<void>(*batch);
    EXPECT_TRUE(eventually([&] { return counters.words[0] == 0; }));
    EXPECT_LE(counters.words[1], most);
  }
  counters.words[1] = 0;
  is_last = 1;
  loader.set_epoch(4);
  EXPECT_EQ(targets_of(loader).samples.size(), 40U);
  EXPECT_EQ(counters.words[1], most);
}

TEST_F(AsyncSamplesTest, EachSampleIsAskedForOnceAPass) {
  for (const auto& [workers, kind] : kAllKinds) {
    SharedCounters counters;
    DataLoader loader(Remote{40, counters.words},
                      options_with(workers, 7).kind(kind).prepare_next_epoch(false));
    EXPECT_EQ(targets_of(loader).samples.size(), 40U);
    EXPECT_EQ(counters.words[2], 40);
  }
}

TEST_F(AsyncSamplesTest, AnErrorIsItsSamples) {
  for (const auto& [workers, kind] : kAllKinds) {
    Remote dataset;
    dataset.answer = [](std::size_t index) {
      if (index == 13) throw std::runtime_error("status 503");
    };
    DataLoader loader(dataset, options_with(workers, 5).kind(kind));
    const auto pass = targets_of(loader);
    EXPECT_EQ(pass.samples.size(), 35U);
    ASSERT_EQ(pass.errors.size(), 1U);
    EXPECT_EQ(pass.errors[0].sample_index(), 13);
    EXPECT_EQ(pass.errors[0].batch_index(), 2);
    EXPECT_EQ(pass.errors[0].failure(), WorkerFailure::Exception);
    EXPECT_NE(std::string(pass.errors[0].what()).find("status 503"), std::string::npos);
  }
}

TEST_F(AsyncSamplesTest, PoliciesAreThoseOfGet) {
  for (const auto policy : {SamplePolicy::Skip, SamplePolicy::Replace}) {
    Remote dataset;
    dataset.answer = [](std::size_t index) {
      if (index % 9 == 4) throw std::runtime_error("status 404");
    };
    const auto options = options_with(0, 5).on_failed_sample(policy);
    DataLoader sync(dataset, DataLoaderOptions(options).in_flight(0));
    const auto expected = targets_of(sync).samples;
    for (const auto& [workers, kind] : kAllKinds) {
      DataLoader loader(dataset, DataLoaderOptions(options).workers(workers).kind(kind));
      EXPECT_EQ(targets_of(loader).samples, expected);
    }
  }
}

// What cannot even be begun.
struct Refusing : Remote {
  std::future<torch::data::Example<>> get_async(std::size_t index) {
    if (index == 6) throw std::runtime_error("no connection");
    if (index == 11) return {};
    return Remote::get_async(index);
  }
};

TEST_F(AsyncSamplesTest, WhatCannotBeBegunIsItsSamplesError) {
  for (const auto& [workers, kind] : kAllKinds) {
    DataLoader loader(Refusing{}, options_with(workers, 5).kind(kind));
    const auto pass = targets_of(loader);
    EXPECT_EQ(pass.samples.size(), 30U);
    ASSERT_EQ(pass.errors.size(), 2U);
    EXPECT_EQ(pass.errors[0].sample_index(), 6);
    EXPECT_NE(std::string(pass.errors[0].what()).find("no connection"), std::string::npos);
    EXPECT_EQ(pass.errors[1].sample_index(), 11);
    EXPECT_NE(std::string(pass.errors[1].what())
                  .find("get_async(11) gave a future without a state; take it from a std::promise"),
              std::string::npos);
  }
}

// One of whose answers never comes.
struct Deaf : Remote {
  using Answer = std::promise<torch::data::Example<>>;
  std::shared_ptr<std::vector<std::shared_ptr<Answer>>> kept =
      std::make_shared<std::vector<std::shared_ptr<Answer>>>();

  std::future<torch::data::Example<>> get_async(std::size_t index) {
    if (index != 13) return Remote::get_async(index);
    kept->push_back(std::make_shared<Answer>());
    return kept->back()->get_future();
  }
};

TEST_F(AsyncSamplesTest, ASampleThatNeverComesIsAnErrorThatSaysSo) {
  for (const auto& [workers, kind] : kAllKinds) {
    expect_with_some_limit([&, workers = workers, kind = kind](milliseconds limit) -> std::string {
      DataLoader loader(
          Deaf{}, options_with(workers, 5).kind(kind).timeout(limit).prepare_next_epoch(false));
      const auto pass = targets_of(loader);
      if (pass.errors.size() != 1U) return std::to_string(pass.errors.size()) + " errors";
      const std::string text = pass.errors[0].what();
      const bool says_so =
          text.find("get_async(13) has not given its sample within") != std::string::npos &&
          text.find("(DataLoaderOptions::timeout)") != std::string::npos;
      if (!says_so || pass.errors[0].sample_index() != 13) return text;
      if (loader.statistics().restarts != 0) return "a worker was killed";
      return pass.samples.size() == 35U ? "" : "samples are missing";
    });
  }
}

// A store that falls silent: the loader's own limits speak, not those for workers that hang.
TEST_F(AsyncSamplesTest, NotAllSamplesOfABatchAreTriedInPlaceOfASilentOne) {
  struct Silent : Deaf {
    std::future<torch::data::Example<>> get_async(std::size_t index) {
      return Deaf::get_async(index < 5 ? index : 13);
    }
  };
  // Long enough for the samples of the first batch.
  const auto attempt = [](milliseconds limit) -> std::string {
    DataLoader loader(Silent{}, options_with(1, 5)
                                    .timeout(limit)
                                    .on_failed_sample(SamplePolicy::Replace)
                                    .prepare_next_epoch(false));
    auto batch = loader.begin();
    static_cast<void>(*batch);
    try {
      ++batch;
      static_cast<void>(*batch);
      return "no error";
    } catch (const WorkerError& error) {
      const std::string text = error.what();
      if (text.find("get_async(5) has not given its sample within") == std::string::npos) {
        return text;
      }
    }
    return loader.statistics().restarts == 0 ? "" : "a worker was killed";
  };
  expect_with_some_limit(attempt, milliseconds(1500));
}

// A future of a program's own type whose connection breaks while it is waited for.
struct Breaking {
  struct Answer {
    std::size_t index;
    std::future_status wait_for(milliseconds) const {
      if (index == 13) throw std::runtime_error("broken connection");
      return std::future_status::ready;
    }
    torch::data::Example<> get() const { return sample_of(index); }
  };
  Answer get_async(std::size_t index) { return {index}; }
  torch::data::Example<> get(std::size_t index) { return sample_of(index); }
  std::size_t size() const { return 40; }
};

TEST_F(AsyncSamplesTest, WhatWaitingThrowsIsItsSamplesError) {
  for (const auto& [workers, kind] : kAllKinds) {
    DataLoader loader(Breaking{}, options_with(workers, 5).kind(kind));
    const auto pass = targets_of(loader);
    EXPECT_EQ(pass.samples.size(), 35U);
    ASSERT_EQ(pass.errors.size(), 1U);
    EXPECT_EQ(pass.errors[0].sample_index(), 13);
    EXPECT_NE(std::string(pass.errors[0].what()).find("broken connection"), std::string::npos);
    // And where nobody waits for it.
    auto batch = loader.begin();
    static_cast<void>(*batch);
  }
}

TEST_F(AsyncSamplesTest, ALoaderEndsWhileSamplesAreUnderWay) {
  for (const auto& [workers, kind] : kAllKinds) {
    SharedCounters counters;
    {
      DataLoader loader(Remote{40, counters.words}, options_with(workers, 5).kind(kind));
      auto batch = loader.begin();
      static_cast<void>(*batch);
    }
    if (kind == WorkerKind::Thread || workers == 0) {
      EXPECT_TRUE(eventually([&] { return counters.words[0] == 0; }));
    }
    // And where one of them never comes.
    DataLoader loader(Deaf{}, options_with(workers, 10).kind(kind).prepare_next_epoch(false));
    auto batch = loader.begin();
    static_cast<void>(*batch);
  }
}

TEST_F(AsyncSamplesTest, WorkersThatDieBeginAgain) {
  SharedCounters counters;
  Remote dataset;
  dataset.answer = [&counters](std::size_t index) {
    if (index == 13 && counters.words[9].fetch_add(1) == 0) std::raise(SIGKILL);
  };
  DataLoader loader(dataset, options_with(2, 5));
  const auto pass = targets_of(loader);
  EXPECT_TRUE(pass.errors.empty());
  std::vector<std::int64_t> expected(40);
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(pass.samples, expected);
  EXPECT_EQ(loader.statistics().restarts, 1U);
}

// Whose `get_async` ends the process, for a sample that lies in the batch or in a later one.
struct Deadly : Remote {
  std::size_t at = 13;
  std::future<torch::data::Example<>> get_async(std::size_t index) {
    if (index == at) std::raise(SIGSEGV);
    return Remote::get_async(index);
  }
};

TEST_F(AsyncSamplesTest, ASampleWhoseBeginningEndsWorkersIsNamed) {
  for (const std::int64_t workers : {1, 2}) {
    for (const std::size_t at : {0U, 3U, 13U}) {
      DataLoader loader(Deadly{{}, at}, options_with(workers, 5).prepare_next_epoch(false));
      const auto pass = targets_of(loader);
      EXPECT_EQ(pass.samples.size(), 35U);
      ASSERT_EQ(pass.errors.size(), 1U) << workers << " workers, sample " << at;
      EXPECT_EQ(pass.errors[0].failure(), WorkerFailure::Killed);
      EXPECT_EQ(pass.errors[0].sample_index(), static_cast<std::int64_t>(at));
    }
  }
}

TEST_F(AsyncSamplesTest, ASampleWhoseBeginningEndsWorkersIsTheOneLeftOut) {
  for (const std::int64_t workers : {1, 2}) {
    for (const std::int64_t size : {1, 10}) {
      DataLoader loader(Deadly{}, options_with(workers, size).on_poison_sample(SamplePolicy::Skip));
      std::vector<std::int64_t> expected(40);
      std::iota(expected.begin(), expected.end(), 0);
      expected.erase(expected.begin() + 13);
      const auto pass = targets_of(loader);
      EXPECT_EQ(pass.samples, expected);
      EXPECT_TRUE(pass.errors.empty());
    }
  }
}

TEST_F(AsyncSamplesTest, OtherWorkersBuildTheBatchesOfOneThatCannotStart) {
  auto options = options_with(2, 5);
  options.worker_init([](std::size_t worker) {
    if (worker == 0) throw std::runtime_error("no memory for this one");
  });
  DataLoader loader(Remote{}, options);
  for (int epoch = 0; epoch < 2; ++epoch) {
    const auto pass = targets_of(loader);
    std::vector<std::int64_t> expected(40);
    std::iota(expected.begin(), expected.end(), 0);
    EXPECT_EQ(pass.samples, expected);
    EXPECT_LE(pass.errors.size(), epoch == 0 ? 1U : 0U);
  }
}

// The reply of a store, of which the worker makes the sample.
struct Encoded {
  std::shared_future<std::string> get_async(std::size_t index) {
    return std::async(std::launch::async, [index] { return std::to_string(index); }).share();
  }
  torch::data::Example<> decode(std::size_t index, const std::string& reply, SampleRandom& random) {
    TORCH_CHECK(reply == std::to_string(index), "the reply of another sample");
    return {torch::full({2}, random.uniform(0, 1)) + torch::rand({2}),
            torch::tensor(static_cast<std::int64_t>(std::stoll(reply)))};
  }
  torch::data::Example<> get(std::size_t index, SampleRandom& random) {
    return decode(index, std::to_string(index), random);
  }
  std::size_t size() const { return 30; }
};
static_assert(GetsAsync<Encoded>);

TEST_F(AsyncSamplesTest, DecodingDrawsTheNumbersOfTheSample) {
  const auto options = options_with(0, 4).shuffle(true).seed(5);
  const auto expected = tensors_of(Encoded{}, DataLoaderOptions(options).in_flight(0));
  for (const auto& [workers, kind] : kAllKinds) {
    expect_equal(tensors_of(Encoded{}, DataLoaderOptions(options).workers(workers).kind(kind)),
                 expected);
  }
}

// Which draws numbers for itself, and seeds.
struct Drawing : Encoded {
  std::shared_future<std::string> get_async(std::size_t index) {
    if (index % 3 == 0) torch::manual_seed(17);
    static_cast<void>(torch::rand({3}));
    return Encoded::get_async(index);
  }
};

TEST_F(AsyncSamplesTest, NumbersDrawnInGetAsyncAreNobodys) {
  const auto options = options_with(0, 4).seed(5);
  const auto expected = tensors_of(Encoded{}, DataLoaderOptions(options).in_flight(0));
  for (const auto& [workers, kind] : kAllKinds) {
    for (const int in_flight : {1, 3}) {
      const auto other =
          DataLoaderOptions(options).workers(workers).kind(kind).in_flight(in_flight);
      expect_equal(tensors_of(Drawing{}, other), expected);
    }
  }
}

// Whose samples are of no fixed size, so that a batch is made of all of them.
struct Words {
  std::future<std::string> get_async(std::size_t index) {
    return std::async(std::launch::deferred, [index] { return std::string(index, 'x'); });
  }
  std::string get(std::size_t index) { return std::string(index, 'x'); }
  std::size_t size() const { return 23; }
};

TEST_F(AsyncSamplesTest, SamplesWithoutRowsAndDeferredFutures) {
  for (const auto& [workers, kind] : kAllKinds) {
    DataLoader loader(Words{}, options_with(workers, 5).kind(kind));
    std::vector<std::size_t> sizes;
    for (auto& batch : loader) {
      for (const auto& word : batch) sizes.push_back(word.size());
    }
    ASSERT_EQ(sizes.size(), 23U);
    for (std::size_t index = 0; index < 23; ++index) EXPECT_EQ(sizes[index], index);
  }
}

// One of LibTorch's datasets with `get_async`, and a transform above it.
struct Classic : torch::data::datasets::Dataset<Classic> {
  torch::data::Example<> get(std::size_t index) override { return sample_of(index); }
  c10::optional<std::size_t> size() const override { return 20; }
  std::future<torch::data::Example<>> get_async(std::size_t index) {
    return std::async(std::launch::async, [index] { return sample_of(index); });
  }
};

TEST_F(AsyncSamplesTest, TransformsAreApplied) {
  const auto mapped = Classic().map(torch::data::transforms::Normalize<>(1.0, 2.0));
  static_assert(GetsAsync<std::remove_const_t<decltype(mapped)>>);
  const auto expected = tensors_of(mapped, options_with(0).in_flight(0));
  expect_equal(tensors_of(mapped, options_with(0)), expected);
  expect_equal(tensors_of(mapped, options_with(2)), expected);
}

WeightedRandomSampler repeating() {
  return WeightedRandomSampler(std::vector<double>(40, 1), 1, 0,
                               WeightedRandomSamplerOptions().num_samples(60));
}

TEST_F(AsyncSamplesTest, SamplesThatComeSeveralTimes) {
  const auto expected = [] {
    DataLoader loader(Remote{}, repeating(), options_with(0).in_flight(0));
    return targets_of(loader).samples;
  }();
  for (const auto& [workers, kind] : kAllKinds) {
    DataLoader loader(Remote{}, repeating(), options_with(workers).kind(kind));
    EXPECT_EQ(targets_of(loader).samples, expected);
  }
}

// Whose answers come only in the process that has asked for them.
struct Faithful {
  struct Answer {
    std::size_t index;
    pid_t asked_by = ::getpid();
    std::future_status wait_for(milliseconds) const {
      return asked_by == ::getpid() ? std::future_status::ready : std::future_status::timeout;
    }
    torch::data::Example<> get() const { return sample_of(index); }
  };
  Answer get_async(std::size_t index) { return {index}; }
  torch::data::Example<> get(std::size_t index) { return sample_of(index); }
  std::size_t size() const { return 40; }
};

TEST_F(AsyncSamplesTest, ALoaderInAForkBeginsItsOwn) {
  DataLoader loader(Faithful{}, options_with(0));
  auto batch = loader.begin();
  static_cast<void>(*batch);
  EXPECT_EQ(status_of_child([&] {
              ++batch;
              const bool goes_on = batch->target[0].item<std::int64_t>() == 4;
              return goes_on && targets_of(loader).samples.size() == 40 ? 0 : 1;
            }),
            0);
  EXPECT_EQ(targets_of(loader).samples.size(), 40U);
}

TEST_F(AsyncSamplesTest, GoesOnFromAStateWithinAnEpoch) {
  for (const std::int64_t workers : {0, 2}) {
    DataLoader first(Remote{}, options_with(workers).shuffle(true));
    auto batch = first.begin();
    for (int count = 0; count < 3; ++count, ++batch) static_cast<void>(*batch);
    const auto state = first.state();
    DataLoader whole(Remote{}, options_with(0).shuffle(true).in_flight(0));
    const auto all = targets_of(whole).samples;
    DataLoader second(Remote{}, options_with(2 - workers).shuffle(true));
    second.load_state(state);
    const auto rest = targets_of(second).samples;
    ASSERT_LT(rest.size(), all.size());
    EXPECT_TRUE(
        std::equal(rest.begin(), rest.end(), all.end() - static_cast<std::ptrdiff_t>(rest.size())));
  }
}

}  // namespace
}  // namespace lockstep::data
