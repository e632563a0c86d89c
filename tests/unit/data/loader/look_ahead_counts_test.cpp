// SPDX-License-Identifier: BSD-3-Clause
// What a program that tunes `read_ahead` and `in_flight` is told.
#include "data/loader/look_ahead_counts.h"

#include <algorithm>
#include <future>

#include "data/loader/pending_samples.h"
#include "data/loader/read_ahead.h"
#include "data/loader/sample_policy.h"
#include "support/loader_test_support.h"
#include "support/page_cache.h"

namespace lockstep::data {
namespace {

using detail::LookAheadCounts;

LoaderStatistics statistics_of(const std::vector<const LookAheadCounts*>& workers) {
  LoaderStatistics statistics;
  for (const auto* counts : workers) detail::add_counts({counts, 1}, statistics);
  return statistics;
}

// Samples that come when a test says so.
class CountedSamplesTest : public ::testing::Test {
 protected:
  struct Pending : detail::PendingSample {
    Pending(const CountedSamplesTest& owner, std::size_t number) : test(owner), index(number) {}
    bool wait_for(std::chrono::milliseconds) override { return test.there[index]; }
    SampleTree take(SampleRandom&) override { return {}; }
    const CountedSamplesTest& test;
    std::size_t index;
  };
  CountedSamplesTest() {
    source.start = [this](std::size_t index) { return std::make_unique<Pending>(*this, index); };
    make_pending();
  }
  void make_pending() {
    pending.emplace(source, 3, std::chrono::milliseconds(5), std::chrono::milliseconds(0), counts);
    const auto tell = [this](std::size_t most, const detail::UseUpcoming& use) {
      for (const auto end = next + most; next < end; ++next) {
        if (!use(static_cast<std::int64_t>(next), detail::place_word(0, next))) return;
      }
    };
    pending->use(tell, nullptr);
  }
  void take(std::size_t index) {
    SampleRandom random(1, 0, static_cast<std::int64_t>(index));
    static_cast<void>(pending->take(index, random));
  }
  [[nodiscard]] LoaderStatistics statistics() const { return statistics_of({&counts}); }

  std::array<bool, 100> there{};
  std::size_t next = 0;
  detail::SampleSource source;
  LookAheadCounts counts{};
  std::optional<detail::PendingSamples> pending;
};

TEST_F(CountedSamplesTest, WhatWasReadyIsToldFromWhatWasWaitedFor) {
  there[0] = true;
  take(0);
  EXPECT_EQ(statistics().async_begun, 3U);
  EXPECT_EQ(statistics().async_ready, 1U);
  EXPECT_EQ(statistics().async_under_way, 2U);
  EXPECT_EQ(statistics().async_depth, 3.0);
  EXPECT_THROW(take(1), detail::SilentSample);
  EXPECT_EQ(statistics().async_begun, 4U);
  EXPECT_EQ(statistics().async_ready, 1U);
  EXPECT_EQ(statistics().async_unwanted, 1U);
  EXPECT_EQ(statistics().async_under_way, 2U) << "2 and 3; nobody expects 1 any more";
  EXPECT_EQ(statistics().async_depth, 3.0);
  there[2] = there[3] = there[4] = true;
  take(2);
  EXPECT_EQ(statistics().async_ready, 2U);
}

TEST_F(CountedSamplesTest, WhatIsLetGoCountsUntilItIsThere) {
  there[0] = there[2] = true;
  take(0);
  pending->forget_before(detail::place_word(0, 2));
  EXPECT_EQ(statistics().async_unwanted, 1U);
  EXPECT_EQ(statistics().async_under_way, 2U);
  pending->forget_all();
  EXPECT_EQ(statistics().async_unwanted, 2U);
  EXPECT_EQ(statistics().async_under_way, 1U) << "1, which has not come";
  there[1] = true;
  pending->forget_all();
  EXPECT_EQ(statistics().async_unwanted, 2U);
  EXPECT_EQ(statistics().async_under_way, 0U);
}

TEST_F(CountedSamplesTest, WhatCannotBeBegunIsNotLetGo) {
  source.start = [](std::size_t) -> std::unique_ptr<detail::PendingSample> {
    throw std::runtime_error("no connection");
  };
  make_pending();
  EXPECT_THROW(take(0), std::runtime_error);
  EXPECT_EQ(statistics().async_begun, 3U);
  pending->forget_all();
  EXPECT_EQ(statistics().async_under_way, 0U);
  EXPECT_EQ(statistics().async_unwanted + statistics().async_ready, 0U);
}

TEST_F(CountedSamplesTest, AWorkerThatTakesAnothersPlaceCountsOn) {
  there.fill(true);
  take(0);
  LookAheadCounts dead{};
  dead.begun = 7;
  dead.under_way = 5;
  {
    const detail::PendingSamples other(source, 3, std::chrono::milliseconds(5),
                                       std::chrono::milliseconds(0), dead);
    EXPECT_EQ(statistics_of({&dead}).async_begun, 7U);
    EXPECT_EQ(statistics_of({&dead}).async_under_way, 0U);
  }
  pending.reset();
  EXPECT_EQ(statistics().async_under_way, 0U) << "a thread that has ended has none";
  EXPECT_EQ(statistics_of({&counts, &dead}).async_begun, 10U);
}

// Of all workers, each by how often it asked.
TEST(LookAheadCounts, TheDepthIsThatOfAllSamples) {
  std::array<LookAheadCounts, 3> workers{};
  workers[0].wanted = 3;
  workers[0].under_way_sum = 12;
  workers[2].wanted = 1;
  workers[2].under_way_sum = 8;
  LoaderStatistics statistics;
  detail::add_counts(workers, statistics);
  EXPECT_EQ(statistics.async_depth, 5.0);
  LoaderStatistics nothing;
  detail::add_counts({}, nothing);
  EXPECT_EQ(nothing.async_depth, 0.0);
}

class CountedFilesTest : public NothingLeftBehind {
 protected:
  static constexpr std::int64_t kFiles = 12;
  static constexpr std::uint64_t kBytes = 5000;  // of a file

  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "lockstep-count-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder = name;
    for (std::int64_t index = 0; index < kFiles; ++index) {
      std::ofstream(path(index)) << std::string(kBytes, 'a');
    }
    source.files = [this](std::size_t index, FileParts& parts) {
      parts.add(path(static_cast<std::int64_t>(index)));
    };
    NothingLeftBehind::SetUp();
  }
  void TearDown() override {
    NothingLeftBehind::TearDown();
    std::filesystem::remove_all(folder);
  }
  [[nodiscard]] std::string path(std::int64_t index) const {
    return folder + "/" + std::to_string(index);
  }
  // Until `is_so`, with samples that come in order.
  template <class Condition>
  [[nodiscard]] bool look_until(const Condition& is_so) {
    detail::ReadAhead ahead(source, 64, counts);
    std::int64_t next = 0;
    const auto tell = [&](std::size_t, std::size_t most, const detail::UseUpcoming& use) {
      const auto end = std::min<std::int64_t>(kFiles, next + static_cast<std::int64_t>(most));
      for (; next < end; ++next) {
        if (!use(next, detail::place_word(0, static_cast<std::size_t>(next)))) return;
      }
    };
    return eventually([&] {
      if (ahead.is_due()) ahead.look(detail::place_word(0, 0), tell);
      return is_so();
    });
  }
  [[nodiscard]] LoaderStatistics statistics() const { return statistics_of({&counts}); }

  std::string folder;
  detail::SampleSource source;
  LookAheadCounts counts{};
};

TEST_F(CountedFilesTest, FilesFromTheDiskAreToldFromThoseInTheCache) {
  if (!testing::tells_what_is_cached(path(0)))
    GTEST_SKIP() << "this file system does not say what it keeps";
  for (std::int64_t index = 0; index < kFiles; ++index) {
    if (!testing::drop_from_page_cache(path(index)))
      GTEST_SKIP() << "this file system keeps all in memory";
  }
  EXPECT_TRUE(look_until([this] { return counts.files_read + counts.files_in_cache == kFiles; }));
  // What was looked at, the kernel may have begun to read.
  const auto early = static_cast<std::uint64_t>(counts.files_in_cache);
  EXPECT_LT(early, kFiles);
  EXPECT_EQ(statistics().files_read_ahead, kFiles - early);
  EXPECT_EQ(statistics().bytes_read_ahead, (kFiles - early) * kBytes);
  const auto before = statistics();
  EXPECT_TRUE(look_until([&] { return counts.files_in_cache > before.files_in_cache; }));
  EXPECT_EQ(statistics().files_read_ahead, before.files_read_ahead);
  EXPECT_EQ(statistics().bytes_read_ahead, before.bytes_read_ahead);
  EXPECT_EQ(statistics().read_ahead_errors, 0U);
}

TEST_F(CountedFilesTest, FilesThatCannotBeReadAreCounted) {
  source.files = [this](std::size_t index, FileParts& parts) {
    parts.add(index % 2 == 0 ? folder : folder + "/none");
  };
  EXPECT_TRUE(look_until([this] { return counts.errors == kFiles; }));
  source.files = [](std::size_t, FileParts&) { throw std::runtime_error("no name"); };
  EXPECT_TRUE(look_until([this] { return counts.errors > kFiles; }));
  EXPECT_EQ(statistics().files_read_ahead + statistics().files_in_cache, 0U);
}

struct CountedKind {
  std::int64_t workers;
  WorkerKind kind;
};
constexpr std::array kCountedKinds{
    CountedKind{0, WorkerKind::Process}, CountedKind{1, WorkerKind::Process},
    CountedKind{2, WorkerKind::Process}, CountedKind{3, WorkerKind::Process},
    CountedKind{2, WorkerKind::Thread}};

struct NamingNothing : Numbers {
  void files_of(std::size_t index, FileParts& parts) const {
    if (index % 2 == 0) throw std::runtime_error("no name");
    parts.add("/there/is/no/such/file");
  }
};

TEST_F(CountedFilesTest, CountsOfWorkersReachTheProgram) {
  for (const auto& [workers, kind] : kCountedKinds) {
    DataLoader loader(NamingNothing{}, options_with(workers).kind(kind));
    EXPECT_TRUE(eventually([&loader = loader] {
      EXPECT_EQ(targets_of(loader).samples.size(), 20U);
      return loader.statistics().read_ahead_errors != 0;
    }));
    EXPECT_EQ(loader.statistics().files_read_ahead, 0U);
    DataLoader without(NamingNothing{}, options_with(workers).kind(kind).read_ahead(0));
    EXPECT_EQ(targets_of(without).samples.size(), 20U);
    EXPECT_EQ(without.statistics().read_ahead_errors, 0U);
  }
}

// Each is there at once.
struct Prompt : Numbers {
  std::future<torch::data::Example<>> get_async(std::size_t index) {
    return std::async(std::launch::deferred, [index] { return Numbers{}.get(index); });
  }
};

TEST_F(CountedFilesTest, CountsOfAsynchronousSamplesReachTheProgram) {
  for (const auto& [workers, kind] : kCountedKinds) {
    DataLoader loader(Prompt{{40}},
                      options_with(workers, 8).kind(kind).in_flight(6).prepare_next_epoch(false));
    EXPECT_EQ(targets_of(loader).samples.size(), 40U);
    const auto statistics = loader.statistics();
    EXPECT_EQ(statistics.async_begun, 40U) << workers << " workers";
    EXPECT_EQ(statistics.async_ready, 40U);
    EXPECT_EQ(statistics.async_unwanted, 0U);
    EXPECT_EQ(statistics.async_under_way, 0U);
    EXPECT_GE(statistics.async_depth, 1.0);
    EXPECT_LE(statistics.async_depth, 6.0);
  }
}

TEST_F(CountedFilesTest, APassThatBreaksOffLetsSamplesGo) {
  DataLoader loader(Prompt{{40}}, options_with(0, 4).in_flight(6));
  static_cast<void>(*loader.begin());
  EXPECT_EQ(loader.statistics().async_begun, 9U) << "6, and one more for each that was taken";
  EXPECT_EQ(loader.statistics().async_under_way, 5U);
  EXPECT_EQ(loader.statistics().async_depth, 6.0);
  static_cast<void>(*loader.begin());
  EXPECT_EQ(loader.statistics().async_begun, 18U);
  EXPECT_EQ(loader.statistics().async_unwanted, 5U);
}

}  // namespace
}  // namespace lockstep::data
