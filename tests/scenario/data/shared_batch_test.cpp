// SPDX-License-Identifier: BSD-3-Clause
// Batches that are built as a whole, of samples that several workers fetch.
#include <sys/stat.h>

#include <csignal>
#include <mutex>
#include <numeric>
#include <set>

#include "native/posix/file_descriptor.h"
#include "support/loader_test_support.h"

namespace lockstep::data {
namespace {

using SharedBatchTest = NothingLeftBehind;

// So slow that workers fetch the first batches together in every epoch.
void be_slow() {
  std::this_thread::sleep_for(std::chrono::microseconds(500));
}

// All forms that a sample can have; those of odd number are no contiguous memory.
struct Trees {
  std::size_t count = 30;

  SampleTree get(std::size_t index, SampleRandom& random) {
    be_slow();
    const auto number = static_cast<std::int64_t>(index);
    auto noise = torch::empty({5, 7 + number % 3});
    for (std::int64_t i = 0; i < noise.numel(); ++i) noise.view(-1)[i] = random.uniform() - 0.5;
    auto complex = torch::full({}, c10::complex<double>(1, static_cast<double>(number)),
                               torch::kComplexDouble);
    if (index % 2 == 1) noise = noise.t();
    if (index % 4 == 3) complex = complex.conj();
    return SampleTree::Map{
        {"noise", noise},
        {"text", std::string(index, 'x') + std::string("\0y", 2)},
        {"raw", Bytes(index, std::byte{7})},
        {"nothing", SampleTree()},
        {"parts", SampleTree::List{torch::zeros({0, 3}), torch::tensor(number % 2 == 0), complex}}};
  }
  std::size_t size() const { return count; }
};

// Whatever could differ in a sample that came from elsewhere. Changes samples, as collate functions
// do.
SampleTree digest(std::vector<SampleTree> samples) {
  SampleTree::List texts;
  std::vector<torch::Tensor> sums;
  for (auto& sample : samples) {
    auto noise = sample["noise"].tensor();
    sums.push_back(noise.mul_(3).sum());  // added up in the order of the strides
    texts.push_back(sample.describe() + noise.toString() + std::to_string(noise.is_contiguous()) +
                    sample["text"].string() + std::to_string(sample["raw"].bytes().size()) +
                    sample["parts"].describe() + sample["parts"][0].describe() +
                    std::to_string(sample["parts"][2].tensor().is_conj()) +
                    std::to_string(sample["nothing"].is_nothing()));
  }
  return SampleTree::List{texts, torch::stack(sums)};
}

struct Digests {
  std::vector<std::string> texts;
  std::vector<torch::Tensor> sums;
};

Digests digests_of(const DataLoaderOptions& options, bool only_even) {
  struct Even : Trees {
    SampleTree get(std::size_t index, SampleRandom& random) {
      return Trees::get(2 * index, random);
    }
  };
  Digests result;
  const auto read = [&](auto& loader) {
    for (const int epoch : {0, 1}) {
      loader.set_epoch(epoch);
      for (auto& batch : loader) {
        for (const auto& text : batch[0].list()) result.texts.push_back(text.string());
        result.sums.push_back(batch[1].tensor().clone());
      }
    }
  };
  if (only_even) {
    DataLoader loader(Even{}, in_order(30), options, digest);
    read(loader);
  } else {
    DataLoader loader(Trees{}, in_order(30), options, digest);
    read(loader);
  }
  return result;
}

// With and without samples that a worker must fetch again to have them as they were.
TEST_F(SharedBatchTest, SamplesOfEveryFormAreWhatTheyWere) {
  for (const bool only_even : {true, false}) {
    const auto expected = digests_of(options_with(0, 8).seed(3), only_even);
    ASSERT_EQ(expected.texts.size(), 60U);
    for (const auto kind : {WorkerKind::Process, WorkerKind::Thread}) {
      for (const int workers : {1, 2, 3}) {
        const auto options = options_with(workers, 8).seed(3).kind(kind).prepare_next_epoch(false);
        const auto found = digests_of(options, only_even);
        EXPECT_EQ(found.texts, expected.texts) << workers;
        EXPECT_TRUE(torch::equal(torch::cat(found.sums), torch::cat(expected.sums))) << workers;
      }
    }
  }
}

struct Texts {
  std::function<void(std::size_t)> before = [](std::size_t) {};

  SampleTree get(std::size_t index) {
    before(index);
    return SampleTree::List{std::to_string(index),
                            torch::tensor(static_cast<std::int64_t>(::getpid()))};
  }
  std::size_t size() const { return 8; }
};

TEST_F(SharedBatchTest, AllWorkersFetchTheFirstBatch) {
  SharedCounters begun;
  Texts dataset;
  dataset.before = [&](std::size_t index) {
    ++begun.words[0];
    // The first sample is not over before another of its batch has begun, in the other worker.
    if (index == 0) eventually([&] { return begun.words[0] > 1; });
  };
  DataLoader loader(dataset, in_order(8), options_with(2, 8));
  std::set<std::int64_t> pids;
  for (auto& batch : loader) {
    for (int row = 0; row < 8; ++row) {
      EXPECT_EQ(batch[0][static_cast<std::size_t>(row)].string(), std::to_string(row));
      pids.insert(batch[1].tensor()[row].item<std::int64_t>());
    }
  }
  EXPECT_EQ(pids.size(), 2U);
}

Numbers slowly(std::size_t count, std::function<void(std::size_t)> before) {
  Numbers dataset{count};
  dataset.before = [before = std::move(before)](std::size_t index) {
    be_slow();
    before(index);
  };
  return dataset;
}

std::vector<std::int64_t> numbers_from(std::int64_t first, std::int64_t end) {
  std::vector<std::int64_t> result(static_cast<std::size_t>(end - first));
  std::iota(result.begin(), result.end(), first);
  return result;
}

// Of samples that `doubled` has collated.
template <class Loader>
Targets pass_of(Loader& loader) {
  return targets_of(loader, [](const torch::data::Example<>& batch) {
    const auto* target = batch.target.const_data_ptr<std::int64_t>();
    for (std::int64_t row = 0; row < batch.target.size(0); ++row) {
      EXPECT_TRUE(batch.data[row].equal(
          torch::full({2, 3}, static_cast<double>(target[row]), torch::kFloat) / 3 * 2));
    }
  });
}

// Doubles the samples where they lie.
torch::data::Example<> doubled(Samples samples) {
  for (auto& sample : samples) sample.data.mul_(2);
  return stack(std::move(samples));
}

TEST_F(SharedBatchTest, ExceptionsNameTheirSampleAndComeInTurn) {
  const auto dataset = slowly(40, [](std::size_t index) {
    if (index == 6 || index == 3) throw std::out_of_range("no " + std::to_string(index));
  });
  for (const auto kind : {WorkerKind::Process, WorkerKind::Thread}) {
    DataLoader loader(dataset, in_order(40), options_with(3, 8).kind(kind), doubled);
    for (int epoch = 0; epoch < 2; ++epoch) {
      const auto pass = pass_of(loader);
      EXPECT_EQ(pass.samples, numbers_from(8, 40));
      ASSERT_EQ(pass.errors.size(), 1U);
      EXPECT_EQ(pass.errors[0].original_message(), "no 3");
      EXPECT_EQ(pass.errors[0].sample_index(), 3);
      EXPECT_EQ(pass.errors[0].batch_index(), 0);
    }
  }
}

TEST_F(SharedBatchTest, CollateThatThrowsLosesItsBatchOnly) {
  const auto collate = [](Samples samples) {
    if (samples[0].target.item<std::int64_t>() == 8) throw std::length_error("too long");
    return doubled(std::move(samples));
  };
  DataLoader loader(slowly(40, [](std::size_t) {}), in_order(40), options_with(3, 8), collate);
  const auto pass = pass_of(loader);
  EXPECT_EQ(pass.samples.size(), 32U);
  ASSERT_EQ(pass.errors.size(), 1U);
  EXPECT_EQ(pass.errors[0].exception_type(), "std::length_error");
  EXPECT_EQ(pass.errors[0].batch_index(), 1);
  EXPECT_EQ(pass.errors[0].sample_index(), 8);
}

// Whoever takes over has the samples as they were, not as the first one left them.
TEST_F(SharedBatchTest, WorkerThatDiesWhileItCollatesLeavesNoTrace) {
  SharedCounters deaths;
  const auto collate = [&](Samples samples) {
    auto batch = doubled(std::move(samples));
    if (++deaths.words[0] == 1) ::raise(SIGKILL);
    return batch;
  };
  SharedCounters fetched;
  const auto dataset = slowly(40, [&](std::size_t index) { ++fetched.words[index]; });
  DataLoader loader(dataset, in_order(40), options_with(3, 8).prepare_next_epoch(false), collate);
  const auto pass = pass_of(loader);
  EXPECT_EQ(pass.samples, numbers_from(0, 40));
  EXPECT_TRUE(pass.errors.empty());
  EXPECT_EQ(loader.statistics().restarts, 1U);
  const auto all = std::accumulate(fetched.words, fetched.words + 40, 0);
  EXPECT_LT(all, 48);  // what was there is not fetched again, if the batch was a shared one
}

TEST_F(SharedBatchTest, PoisonSamplesAreNamedOrLeftOut) {
  const auto dataset = slowly(40, [](std::size_t index) {
    if (index == 2 || index == 8) ::raise(SIGKILL);
  });
  DataLoader strict(dataset, in_order(40), options_with(2, 4), doubled);
  const auto pass = pass_of(strict);
  ASSERT_EQ(pass.errors.size(), 2U);
  EXPECT_EQ(pass.errors[0].sample_index(), 2);
  EXPECT_EQ(pass.errors[0].signal(), SIGKILL);
  EXPECT_EQ(pass.errors[1].sample_index(), 8);
  EXPECT_EQ(pass.samples.size(), 32U);
  DataLoader lenient(
      dataset, in_order(40),
      options_with(2, 4).prepare_next_epoch(false).on_poison_sample(PoisonPolicy::Skip), doubled);
  auto expected = numbers_from(0, 40);
  std::erase_if(expected, [](auto number) { return number == 2 || number == 8; });
  EXPECT_EQ(pass_of(lenient).samples, expected);
  EXPECT_EQ(lenient.statistics().skipped_samples, 2U);
  EXPECT_EQ(lenient.statistics().restarts, 4U);  // nobody tries them once more
}

TEST_F(SharedBatchTest, WorkersKilledAtRandomChangeNothing) {
  SharedCounters begun;
  std::atomic<int>& all_begun = begun.words[24];
  Numbers dataset{24};
  // Quick when it is done again: two kills at the same sample would be the sample's fault.
  dataset.before = [&](std::size_t index) {
    ++all_begun;
    if (++begun.words[index] == 1) std::this_thread::sleep_for(std::chrono::microseconds(1500));
  };
  // Pipelines that are empty at first, again and again.
  DataLoader loader(dataset, in_order(24), options_with(3, 6).prepare_next_epoch(false), doubled);
  const RandomKiller killer(3, all_begun);
  for (int epoch = 0; epoch < 40 || (killer.kills() < 3 && epoch < 4000); ++epoch) {
    for (std::size_t index = 0; index < 24; ++index) begun.words[index] = 0;
    const auto pass = pass_of(loader);
    ASSERT_TRUE(pass.errors.empty()) << pass.errors[0].what();
    ASSERT_EQ(pass.samples, numbers_from(0, 24));
  }
  EXPECT_GE(killer.kills(), 3);
}

// Samples that cannot be passed on.
struct Transposed : Numbers {
  torch::data::Example<> get(std::size_t index) {
    auto sample = Numbers::get(index);
    sample.data = sample.data.t();
    return sample;
  }
};

const auto kStack = [](Samples samples) { return stack(std::move(samples)); };

// One worker fetches them all, and that takes longer than the rank would wait for nothing.
TEST_F(SharedBatchTest, SamplesThatAreFetchedAgainAreProgress) {
  // Which is twice the timeout and a second.
  expect_with_some_limit(
      [](std::chrono::milliseconds timeout) {
        Transposed dataset;
        dataset.count = 16;
        dataset.before = [timeout](std::size_t) { std::this_thread::sleep_for(timeout * 4 / 15); };
        DataLoader loader(dataset, in_order(16), options_with(2, 16).timeout(timeout), kStack);
        const auto pass = pass_over_errors(loader);
        return pass.errors.empty() ? std::string() : std::string(pass.errors[0].what());
      },
      std::chrono::milliseconds(600));
}

TEST_F(SharedBatchTest, NextToNothingIsFetchedTwice) {
  SharedCounters fetched;
  Transposed dataset;
  dataset.count = 64;
  dataset.before = [&](std::size_t) {
    be_slow();
    ++fetched.words[0];
  };
  DataLoader loader(dataset, in_order(64), options_with(2, 16).prepare_next_epoch(false), kStack);
  for (int epoch = 0; epoch < 3; ++epoch) EXPECT_TRUE(pass_over_errors(loader).errors.empty());
  EXPECT_LE(fetched.words[0], 3 * 64 + 2);  // each worker has one when the first is found out
}

// What a collate function may do with tensors of its own, it may do with those of other workers.
TEST_F(SharedBatchTest, SamplesBelongToTheCollateFunction) {
  for (const auto kind : {WorkerKind::Process, WorkerKind::Thread}) {
    auto kept = std::make_shared<std::vector<torch::Tensor>>();
    auto guard = std::make_shared<std::mutex>();
    const auto collate = [kept, guard](Samples samples) {
      const std::lock_guard lock(*guard);
      for (const auto& tensor : *kept) {
        if (!tensor.eq(1).all().item<bool>()) {
          throw std::runtime_error("what was kept has changed");
        }
      }
      for (auto& sample : samples) {
        if (sample.target.item<std::int64_t>() == 3) kept->push_back(sample.data);
        sample.target.resize_({3}).fill_(1);
      }
      return stack(std::move(samples));
    };
    DataLoader loader(slowly(40, [](std::size_t) {}), in_order(40),
                      options_with(2, 8).kind(kind).prepare_next_epoch(false), collate);
    for (int epoch = 0; epoch < 3; ++epoch) {
      const auto pass = pass_over_errors(loader);
      EXPECT_EQ(pass.batches, 5);
      for (const auto& error : pass.errors) ADD_FAILURE() << error.what();
    }
  }
}

// Parts that share memory change together.
TEST_F(SharedBatchTest, PartsThatShareMemoryStillDo) {
  struct Shared {
    SampleTree get(std::size_t index) {
      be_slow();
      const auto tensor = torch::full({3}, static_cast<double>(index), torch::kFloat);
      return SampleTree::List{tensor, tensor.slice(0, 0, 2)};
    }
    std::size_t size() const { return 16; }
  };
  const auto collate = [](std::vector<SampleTree> samples) {
    std::vector<torch::Tensor> result;
    for (auto& sample : samples) {
      sample[0].tensor().add_(1);
      result.push_back(sample[1].tensor());
    }
    return torch::stack(result);
  };
  for (const int workers : {0, 2}) {
    DataLoader loader(Shared{}, in_order(16), options_with(workers, 8), collate);
    float expected = 1;
    for (auto& batch : loader) {
      for (int row = 0; row < 8; ++row) EXPECT_EQ(batch[row][0].template item<float>(), expected++);
    }
  }
}

// The memory of the loader that there is.
class RingMemory {
 public:
  RingMemory() {
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      std::error_code ignored;
      const auto target = std::filesystem::read_symlink(entry, ignored).string();
      if (target.find("lockstep-data") == std::string::npos) continue;
      memory_ = native::FileDescriptor(::dup(std::stoi(entry.path().filename().string())));
    }
  }

  // Of the whole region; -1 where there is none.
  [[nodiscard]] std::int64_t bytes() const {
    struct stat info {};
    return ::fstat(memory_.get(), &info) == 0 ? info.st_blocks * 512 : -1;
  }

 private:
  native::FileDescriptor memory_;
};

TEST_F(SharedBatchTest, NoMemoryIsLeftInTheRegion) {
  SharedCounters calls;
  struct Large : Numbers {
    torch::data::Example<> get(std::size_t index) {
      auto sample = Numbers::get(index);
      sample.data = torch::ones({64 << 10});  // 256 KiB
      return sample;
    }
  };
  Large dataset;
  static_cast<Numbers&>(dataset) = slowly(40, [&](std::size_t index) {
    if (index == 17) throw std::runtime_error("bad");
    if (index == 5 && ++calls.words[0] % 2 == 1) ::raise(SIGKILL);
  });
  const auto small = [](Samples samples) {
    for (auto& sample : samples) sample.data = sample.data.slice(0, 0, 4);
    return stack(std::move(samples));
  };
  DataLoader loader(dataset, in_order(40), options_with(3, 8).prepare_next_epoch(false), small);
  for (int epoch = 0; epoch < 6; ++epoch) {
    EXPECT_EQ(pass_over_errors(loader).errors.size(), 1U);
    // A pass that is left: what was given out is taken back.
    static_cast<void>(*loader.begin());
  }
  static_cast<void>(pass_over_errors(loader));
  // Slots and words; one sample that was left would show.
  const RingMemory memory;
  EXPECT_GT(memory.bytes(), 0);
  EXPECT_LT(memory.bytes(), 200'000);
}

// A batch that is held keeps the memory of its slot, not that of samples on their way to others.
TEST_F(SharedBatchTest, LoaderThatGoesTakesSamplesAlong) {
  struct Large : Numbers {
    SampleTree get(std::size_t index) {
      before(index);
      return SampleTree::List{torch::ones({1 << 20}), std::string("text")};
    }
  };
  SharedCounters seen;
  Large dataset;
  static_cast<Numbers&>(dataset) = slowly(64, [&](std::size_t index) {
    if (index > 12) eventually([&] { return seen.words[0] != 0; });
  });
  const auto small = [](std::vector<SampleTree> samples) {
    return samples[0][0].tensor().slice(0, 0, 2);
  };
  for (const auto kind : {WorkerKind::Process, WorkerKind::Thread}) {
    std::optional<RingMemory> memory;
    std::optional<torch::Tensor> held;
    seen.words[0] = 0;
    {
      DataLoader loader(dataset, in_order(64), options_with(2, 8).kind(kind), small);
      memory.emplace();
      held = *loader.begin();
      EXPECT_TRUE(eventually([&] { return memory->bytes() > 8 << 20; }));
      seen.words[0] = 1;
    }
    EXPECT_GT(memory->bytes(), 0);
    EXPECT_LT(memory->bytes(), 200'000);
    EXPECT_EQ((*held)[0].item<float>(), 1);
  }
}

TEST_F(SharedBatchTest, LargeBatchIsGivenBackAfterItsLoaderIsGone) {
  const auto growing = [](Samples samples) {
    const auto first = samples[0].target.item<std::int64_t>();
    return torch::full({first < 8 ? 1 : 1 << 20}, first);
  };
  std::optional<RingMemory> memory;
  torch::Tensor held;
  {
    DataLoader loader(slowly(32, [](std::size_t) {}), in_order(32), options_with(2, 8), growing);
    memory.emplace();
    for (auto& batch : loader) {
      if (batch.numel() > 1) held = batch;
    }
    EXPECT_EQ(loader.statistics().oversize, 3U);
  }
  EXPECT_GT(memory->bytes(), 8 << 20);
  EXPECT_EQ(held[-1].item<std::int64_t>(), 24);
  held.reset();
  EXPECT_LT(memory->bytes(), 200'000);
}

}  // namespace
}  // namespace lockstep::data
