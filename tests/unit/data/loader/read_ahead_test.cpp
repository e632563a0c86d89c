// SPDX-License-Identifier: BSD-3-Clause
// The files of samples that come next: who is told of which, and that nothing but time depends on
// it.
#include "data/loader/read_ahead.h"

#include <lockstep/data/readers/packed_records.h>
#include <lockstep/data/readers/tar_shards.h>
#include <lockstep/data/samplers/random_sampler.h>

#include <numeric>
#include <set>

#include "data/loader/pending_samples.h"
#include "data/loader/sample_policy.h"
#include "data/loader/upcoming_plan.h"
#include "data/loader/upcoming_tasks.h"
#include "native/posix/page_cache.h"
#include "support/expected_errors.h"
#include "support/loader_test_support.h"
#include "support/page_cache.h"
#include "support/tar_test_support.h"

namespace lockstep::data {
namespace {

using detail::place_word;
using std::chrono::milliseconds;

class ReadAheadTest : public NothingLeftBehind {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "lockstep-ahead-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder = name;
    NothingLeftBehind::SetUp();
  }
  void TearDown() override {
    NothingLeftBehind::TearDown();
    std::filesystem::remove_all(folder);
  }
  std::string folder;
};

TEST(ReadAheadPace, FollowsWhatIsCached) {
  detail::ReadAheadPace pace;
  const auto due_of = [&](int calls) {
    int due = 0;
    for (int call = 0; call < calls; ++call) due += pace.is_due() ? 1 : 0;
    return due;
  };
  EXPECT_FALSE(pace.is_full()) << "one is looked at first";
  EXPECT_TRUE(pace.is_due());
  pace.saw(true);
  EXPECT_EQ(due_of(100), 50);
  for (int sample = 0; sample < 1000; ++sample) pace.saw(true);
  EXPECT_EQ(due_of(640), 10) << "it never stops looking";
  pace.saw(false);
  EXPECT_TRUE(pace.is_full());
  EXPECT_EQ(due_of(10), 10);
  // What is missing now and then keeps it going.
  for (int sample = 0; sample < 1000; ++sample) pace.saw(sample % 31 != 0);
  EXPECT_TRUE(pace.is_full());
  pace.saw(false);
  for (std::size_t sample = 0; sample + 1 < pace.kCachedInARow; ++sample) pace.saw(true);
  EXPECT_TRUE(pace.is_full());
  pace.saw(true);
  EXPECT_FALSE(pace.is_full());
  EXPECT_TRUE(pace.is_due()) << "the next look is soon";
}

class UpcomingPlanTest : public ::testing::Test {
 protected:
  UpcomingPlanTest() {
    plan.batches = 4;
    plan.items = [this](std::size_t batch, std::vector<std::int64_t>& items) {
      if (batch == throws_at) throw std::runtime_error("no such batch");
      asked.push_back(batch);
      const auto first = static_cast<std::int64_t>(10 * batch);
      for (std::int64_t item = 0; item < (batch == 3 ? 2 : 3); ++item)
        items.push_back(first + item);
    };
    upcoming.start(plan);
  }
  std::vector<std::int64_t> take(std::size_t batch) {
    std::vector<std::int64_t> items;
    upcoming.take(batch, items);
    return items;
  }
  std::vector<std::int64_t> tell(std::size_t from, std::size_t skip, std::size_t most,
                                 std::size_t wanted = 100) {
    std::vector<std::int64_t> told;
    upcoming.tell(from, skip, most, [&](std::int64_t index, std::uint64_t) {
      if (told.size() == wanted) return false;
      told.push_back(index);
      return true;
    });
    return told;
  }
  using Items = std::vector<std::int64_t>;

  detail::PassPlan plan;
  detail::UpcomingPlan upcoming;
  std::vector<std::size_t> asked;
  std::size_t throws_at = 99;
};

TEST_F(UpcomingPlanTest, TellsEachSampleOnce) {
  EXPECT_EQ(take(0), (Items{0, 1, 2}));
  EXPECT_EQ(tell(1, 0, 4), (Items{1, 2, 10, 11}));
  EXPECT_EQ(tell(1, 0, 4), (Items{}));
  EXPECT_EQ(tell(2, 0, 4), (Items{12}));
  EXPECT_EQ(take(1), (Items{10, 11, 12}));
  EXPECT_EQ(tell(3, 0, 100), (Items{20, 21, 22, 30, 31}));
  EXPECT_EQ(take(2), (Items{20, 21, 22}));
  EXPECT_EQ(take(3), (Items{30, 31}));
  EXPECT_EQ(tell(1, 0, 100), (Items{}));
  EXPECT_EQ(asked, (std::vector<std::size_t>{0, 1, 2, 3})) << "as without looking ahead";
}

TEST_F(UpcomingPlanTest, TellsWhatWasNotWantedAgain) {
  static_cast<void>(take(0));
  EXPECT_EQ(tell(0, 0, 100, 2), (Items{0, 1}));
  EXPECT_EQ(tell(1, 0, 100, 2), (Items{2, 10}));
  // What has been passed is not told any more, and what is skipped neither.
  static_cast<void>(take(1));
  static_cast<void>(take(2));
  EXPECT_EQ(tell(0, 1, 100, 2), (Items{21, 22}));
  EXPECT_EQ(tell(0, 4, 100, 100), (Items{31}));
}

TEST_F(UpcomingPlanTest, WhatThePlanThrowsWaitsForItsTurn) {
  throws_at = 2;
  static_cast<void>(take(0));
  EXPECT_EQ(tell(0, 0, 100), (Items{0, 1, 2, 10, 11, 12}));
  static_cast<void>(take(1));
  EXPECT_EQ(message_of<std::runtime_error>([&] { static_cast<void>(take(2)); }), "no such batch");
  throws_at = 99;
  EXPECT_EQ(take(2), (Items{20, 21, 22}));
}

class UpcomingTasksTest : public ::testing::Test {
 protected:
  // Task `sequence` has the items 10 * sequence, ...
  void assign(std::size_t slot, std::uint64_t sequence, std::size_t count,
              std::int32_t worker = workers::Task::kAnybody) {
    std::vector<std::int64_t> items(count);
    std::iota(items.begin(), items.end(), static_cast<std::int64_t>(10 * sequence));
    workers::Task task;
    task.sequence = sequence;
    task.items = items;
    task.worker = worker;
    channel.assign(slot, task);
  }
  std::vector<std::int64_t> tell(std::size_t worker, std::size_t slot, std::size_t from,
                                 std::size_t skip = 0, std::size_t most = 100) {
    std::vector<std::int64_t> told;
    upcoming[worker].tell(slot, from, skip, most, [&](std::int64_t index, std::uint64_t) {
      told.push_back(index);
      return true;
    });
    return told;
  }
  using Items = std::vector<std::int64_t>;
  using Whose = detail::UpcomingTasks::Whose;

  workers::TaskChannel channel{workers::ChannelShape{4, 2, 8, 0, false}};
  std::array<detail::UpcomingTasks, 2> upcoming{detail::UpcomingTasks(channel, 0, Whose::Shared),
                                                detail::UpcomingTasks(channel, 1, Whose::Shared)};
};

TEST_F(UpcomingTasksTest, AllWorkersTogetherAreToldAllOnce) {
  assign(2, 4, 4);
  assign(0, 5, 3);
  assign(3, 7, 2);
  EXPECT_EQ(tell(0, 2, 1), (Items{42, 51, 71}));
  EXPECT_EQ(tell(1, 2, 1), (Items{41, 43, 50, 52, 70}));
  EXPECT_EQ(tell(0, 2, 2), (Items{}));
  assign(1, 8, 3);
  EXPECT_EQ(tell(0, 0, 1), (Items{80, 82}));
  EXPECT_EQ(tell(1, 0, 1), (Items{81}));
}

TEST_F(UpcomingTasksTest, LooksNoFurtherThanItIsTold) {
  assign(2, 4, 4);
  assign(0, 5, 4);
  EXPECT_EQ(tell(0, 2, 0, 0, 3), (Items{40, 42}));
  EXPECT_EQ(tell(0, 2, 1, 0, 4), (Items{}));
  EXPECT_EQ(tell(0, 2, 2, 0, 4), (Items{51}));
  EXPECT_EQ(tell(1, 2, 0, 5, 8), (Items{52}));
}

TEST_F(UpcomingTasksTest, PassesOverWhatIsNoSampleAnyMore) {
  assign(0, 4, 4);
  channel.items().leave_out(0, 2);
  channel.items().mark_to_be_replaced(0, 0, 40);
  EXPECT_EQ(tell(0, 0, 0), (Items{}));
  EXPECT_EQ(tell(1, 0, 0), (Items{41, 43}));
  assign(1, 5, 2);
  ASSERT_TRUE(channel.withdraw(1));
  EXPECT_EQ(tell(0, 0, 0), (Items{}));
}

TEST_F(UpcomingTasksTest, BatchesOfOneWorkerAreToldToItAlone) {
  assign(0, 4, 2, 0);
  assign(1, 5, 2, 1);
  assign(2, 6, 2, 0);
  detail::UpcomingTasks own(channel, 0, Whose::Own);
  std::vector<std::int64_t> told;
  own.tell(0, 0, 0, 3, [&](std::int64_t index, std::uint64_t place) {
    EXPECT_EQ(place, place_word(static_cast<std::uint64_t>(index / 10),
                                static_cast<std::size_t>(index % 10)));
    told.push_back(index);
    return told.size() != 2;
  });
  own.tell(0, 1, 0, 3, [&](std::int64_t index, std::uint64_t) {
    told.push_back(index);
    return true;
  });
  EXPECT_EQ(told, (Items{40, 41, 41, 60, 61}));
}

// Samples of `get_async` that come or not, as a test says.
class PendingSamplesTest : public ::testing::Test {
 protected:
  struct Pending : detail::PendingSample {
    explicit Pending(bool is_there) : comes(is_there) {}
    bool wait_for(milliseconds) override { return comes; }
    SampleTree take(SampleRandom&) override { return {}; }
    bool comes;
  };
  PendingSamplesTest() {
    source.start = [this](std::size_t index) {
      begun.push_back(index);
      return std::make_unique<Pending>(index >= silent_before);
    };
  }
  detail::PendingSamples pending_of(std::size_t most) {
    return {source, most, milliseconds(5), milliseconds(0), counts};
  }
  void use(detail::PendingSamples& pending) {
    const auto tell = [this](std::size_t most, const detail::UseUpcoming& use) {
      for (const auto end = next + most; next < end; ++next) {
        if (!use(static_cast<std::int64_t>(next), place_word(0, next))) return;
      }
    };
    pending.use(tell, [this] { return goes_on; });
  }
  void take(detail::PendingSamples& pending, std::size_t index) {
    SampleRandom random(1, 0, static_cast<std::int64_t>(index));
    static_cast<void>(pending.take(index, random));
  }

  detail::SampleSource source;
  detail::LookAheadCounts counts{};
  std::vector<std::size_t> begun;
  std::size_t silent_before = 0;
  std::size_t next = 0;
  bool goes_on = true;
};

TEST_F(PendingSamplesTest, WhatNeverCameTakesNobodysPlace) {
  silent_before = 2;
  auto pending = pending_of(2);
  use(pending);
  for (const std::size_t index : {0U, 1U}) {
    EXPECT_THROW(take(pending, index), detail::SilentSample);
  }
  take(pending, 2);
  EXPECT_EQ(begun, (std::vector<std::size_t>{0, 1, 2, 3}));
}

TEST_F(PendingSamplesTest, WhatIsNotWantedIsNotBegunAndNotReplaced) {
  auto pending = pending_of(2);
  use(pending);
  goes_on = false;
  struct Places {
    std::size_t size() const { return 4; }
    std::int64_t word(std::size_t place) const { return static_cast<std::int64_t>(place); }
    std::int64_t behind(std::size_t) const { return -1; }
    void begin(std::size_t) { ++begun; }
    void note(std::size_t, std::int64_t) {}
    void leave_out(std::size_t) {}
    void replace(std::size_t, std::int64_t) {}
    int begun = 0;
  } places;
  EXPECT_THROW(static_cast<void>(detail::have_sample(
                   SamplePolicy::Replace, places, 0,
                   [&](std::int64_t index) { take(pending, static_cast<std::size_t>(index)); })),
               detail::SampleNotWanted);
  EXPECT_EQ(places.begun, 0) << "no other is tried";
  EXPECT_TRUE(begun.empty());
}

// Counts who is named how often. The files do not exist, which is nobody's business.
struct NamedNumbers : Numbers {
  std::atomic<int>* named = nullptr;
  std::int64_t throws_at = -1;

  void files_of(std::size_t index, FileParts& parts) const {
    if (named != nullptr) ++named[index];
    if (static_cast<std::int64_t>(index) == throws_at) throw std::runtime_error("no name");
    parts.add("/there/is/no/such/file");
  }
};
static_assert(NamesItsFiles<NamedNumbers> && !NamesItsFiles<Numbers>);
static_assert(NamesItsFiles<PackedRecords> && NamesItsFiles<TarShards>);

TEST_F(ReadAheadTest, EachSampleIsNamedOnceAndBeforeItsTurn) {
  SharedCounters counters;
  NamedNumbers dataset;
  dataset.count = 40;
  dataset.named = counters.words;
  dataset.throws_at = 17;
  std::vector<std::int64_t> late;
  dataset.before = [&](std::size_t index) {
    if (counters.words[index] == 0) late.push_back(static_cast<std::int64_t>(index));
  };
  DataLoader loader(dataset, options_with(0).shuffle(true).read_ahead(10));
  for (int epoch = 0; epoch < 2; ++epoch) {
    loader.set_epoch(epoch);
    const auto targets = targets_of(loader).samples;
    ASSERT_EQ(targets.size(), 40U);
    EXPECT_EQ(late, (std::vector<std::int64_t>{targets[0]})) << "the first one has no turn before";
    for (int index = 0; index < 40; ++index) {
      EXPECT_EQ(counters.words[index].exchange(0), index == targets[0] ? 0 : 1) << index;
    }
    late.clear();
  }
}

TEST_F(ReadAheadTest, NobodyIsNamedWithoutReadAhead) {
  SharedCounters counters;
  NamedNumbers dataset;
  dataset.named = counters.words;
  for (const std::int64_t workers : {0, 2}) {
    DataLoader loader(dataset, options_with(workers).read_ahead(0));
    EXPECT_EQ(targets_of(loader).samples.size(), 20U);
  }
  for (int index = 0; index < 20; ++index) EXPECT_EQ(counters.words[index], 0) << index;
}

struct Kind {
  std::int64_t workers;
  WorkerKind kind;
};
constexpr std::array kKinds{Kind{0, WorkerKind::Process}, Kind{1, WorkerKind::Process},
                            Kind{2, WorkerKind::Process}, Kind{2, WorkerKind::Thread}};

TEST_F(ReadAheadTest, WorkersNameSamplesAtMostOnceAPass) {
  for (const auto& [workers, kind] : kKinds) {
    SharedCounters counters;
    NamedNumbers dataset;
    dataset.count = 60;
    dataset.named = counters.words;
    DataLoader loader(dataset, options_with(workers, 5).kind(kind).prepare_next_epoch(false));
    EXPECT_EQ(targets_of(loader).samples.size(), 60U);
    int named = 0;
    for (int index = 0; index < 60; ++index) {
      EXPECT_LE(counters.words[index], 1) << index;
      named += counters.words[index];
    }
    EXPECT_GT(named, 0) << workers << " workers";
  }
}

template <class Dataset>
std::vector<torch::Tensor> batches_of(const Dataset& dataset, const DataLoaderOptions& options,
                                      int epochs = 2, std::size_t break_after = 1000) {
  DataLoader<Dataset> loader(dataset, options);
  std::vector<torch::Tensor> all;
  for (int epoch = 0; epoch < epochs; ++epoch) {
    loader.set_epoch(epoch);
    std::size_t count = 0;
    for (auto& batch : loader) {
      all.push_back(batch.data.clone());
      all.push_back(batch.target.clone());
      if (++count == break_after) break;
    }
  }
  return all;
}

void expect_same(const std::vector<torch::Tensor>& some, const std::vector<torch::Tensor>& others) {
  ASSERT_EQ(some.size(), others.size());
  for (std::size_t at = 0; at < some.size(); ++at) {
    EXPECT_TRUE(torch::equal(some[at], others[at])) << "tensor " << at;
  }
}

// An archive of samples that say who they are.
std::string write_archive(const std::string& folder, int samples) {
  std::vector<ByteVector> members;
  for (int sample = 0; sample < samples; ++sample) {
    const auto name = std::to_string(1000 + sample);
    members.push_back(tar_member(name + ".txt", std::string(3000, static_cast<char>(sample))));
    members.push_back(tar_member(name + ".cls", std::to_string(sample)));
  }
  const auto archive = tar_of(members);
  const auto path = folder + "/archive.tar";
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(archive.data()),
             static_cast<std::streamsize>(archive.size()));
  return path;
}

torch::data::Example<> decode_member(const TarSample& sample) {
  const auto text = sample.at("txt");
  const auto label = sample.at("cls");
  return {torch::full({3}, std::to_integer<int>(text.back())),
          torch::tensor(static_cast<std::int64_t>(
              std::stoll(std::string(reinterpret_cast<const char*>(label.data()), label.size()))))};
}

TEST_F(ReadAheadTest, BatchesAreTheSameWithAndWithout) {
  const TarShards shards({write_archive(folder, 50)}, &decode_member);
  const auto expected = batches_of(shards, options_with(0).shuffle(true).read_ahead(0));
  const auto broken = batches_of(shards, options_with(0).shuffle(true).read_ahead(0), 3, 4);
  for (const auto& [workers, kind] : kKinds) {
    for (const int read_ahead : {1, 64}) {
      const auto options = options_with(workers).shuffle(true).kind(kind).read_ahead(read_ahead);
      expect_same(batches_of(shards, options), expected);
      expect_same(batches_of(shards, options, 3, 4), broken);
    }
  }
}

std::string bytes_of_part(const FileParts& parts) {
  if (parts.parts().size() != 1) return "not one part";
  const auto& part = parts.parts()[0];
  std::ifstream file(part.path, std::ios::binary);
  file.seekg(static_cast<std::streamoff>(part.offset));
  std::string bytes(static_cast<std::size_t>(part.bytes), '\0');
  file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  return file ? bytes : "the part goes beyond the file";
}

TEST_F(ReadAheadTest, ReadersNameTheBytesOfTheirSamples) {
  const TarShards shards({write_archive(folder, 20)}, &decode_member);
  FileParts parts;
  shards.files_of(7, parts);
  const auto members = bytes_of_part(parts);
  EXPECT_EQ(members.substr(0, 3000), std::string(3000, '\7'));
  EXPECT_EQ(members.back(), '7');
  const auto path = folder + "/packed";
  ASSERT_EQ(pack(Numbers{}, path), 20U);
  const PackedRecords records(path);
  parts.clear();
  records.files_of(13, parts);
  const auto record = bytes_of_part(parts);
  const auto data = Numbers{}.get(13).data;
  ASSERT_GE(record.size(), data.nbytes());
  EXPECT_EQ(record.substr(0, data.nbytes()),
            std::string(static_cast<const char*>(data.const_data_ptr()), data.nbytes()));
  EXPECT_THROW(records.files_of(20, parts), c10::Error);
}

// Whole files, as an image folder reads them.
struct TextFolder {
  std::string folder;
  std::size_t count = 30;

  std::string path(std::size_t index) const { return folder + "/" + std::to_string(index); }
  void write() const {
    for (std::size_t index = 0; index < count; ++index) {
      std::ofstream(path(index)) << std::string(5000 + index, 'a');
    }
  }
  torch::data::Example<> get(std::size_t index) const {
    std::ifstream file(path(index));
    if (!file) throw std::runtime_error(path(index) + ": cannot be opened");
    std::ostringstream text;
    text << file.rdbuf();
    return {torch::tensor(static_cast<double>(text.str().size()), torch::kDouble),
            torch::tensor(static_cast<std::int64_t>(index))};
  }
  std::size_t size() const { return count; }
  void files_of(std::size_t index, FileParts& parts) const { parts.add(path(index)); }
};

TEST_F(ReadAheadTest, AFileThatIsGoneIsItsSamplesErrorAsWithout) {
  const TextFolder dataset{folder};
  dataset.write();
  std::filesystem::remove(dataset.path(13));
  for (const auto& [workers, kind] : kKinds) {
    for (const int read_ahead : {0, 64}) {
      DataLoader loader(dataset, options_with(workers).kind(kind).read_ahead(read_ahead));
      const auto pass = targets_of(loader);
      EXPECT_EQ(pass.samples.size(), 26U);
      ASSERT_EQ(pass.errors.size(), 1U);
      EXPECT_EQ(pass.errors[0].sample_index(), 13);
      EXPECT_EQ(pass.errors[0].batch_index(), 3);
      EXPECT_NE(std::string(pass.errors[0].what()).find(dataset.path(13) + ": cannot be opened"),
                std::string::npos)
          << pass.errors[0].what();
    }
  }
}

TEST_F(ReadAheadTest, AFileThatChangesAfterItWasReadAheadIsReadAsItIs) {
  TextFolder dataset{folder};
  dataset.write();
  struct Changing : TextFolder {
    torch::data::Example<> get(std::size_t index) const {
      if (index == 0) {  // the others have been named by then
        std::ofstream(path(9)) << "new";
        std::filesystem::remove(path(8));
      }
      return TextFolder::get(index);
    }
  };
  DataLoader loader(Changing{dataset},
                    options_with(0).read_ahead(64).on_failed_sample(SamplePolicy::Skip));
  std::vector<double> sizes;
  for (auto& batch : loader) {
    const auto* first = batch.data.const_data_ptr<double>();
    sizes.insert(sizes.end(), first, first + batch.data.size(0));
  }
  ASSERT_EQ(sizes.size(), 29U);
  EXPECT_EQ(sizes[7], 5007);
  EXPECT_EQ(sizes[8], 3) << "sample 8 is gone, 9 has another size";
  EXPECT_EQ(sizes[9], 5010);
}

bool drop_all(const TextFolder& dataset) {
  for (std::size_t index = 0; index < dataset.count; ++index) {
    if (!testing::drop_from_page_cache(dataset.path(index))) return false;
  }
  return true;
}

int readers_in_state(char state) {
  int count = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream file(task.path() / "stat");
    std::string text;
    std::getline(file, text);
    const auto end = text.rfind(") ");
    if (text.find("(lockstep-read)") == std::string::npos || end == std::string::npos) continue;
    count += text[end + 2] == state ? 1 : 0;
  }
  return count;
}

// That it reads at all: while a sample is fetched, files of later ones come into the cache.
TEST_F(ReadAheadTest, FilesOfLaterSamplesComeIntoTheCache) {
  const TextFolder dataset{folder};
  dataset.write();
  if (!testing::tells_what_is_cached(dataset.path(20))) {
    GTEST_SKIP() << "this file system does not say what it keeps";
  }
  if (!drop_all(dataset)) GTEST_SKIP() << "this file system keeps all in memory";
  struct Waiting : TextFolder {
    std::atomic<int>* has_come = nullptr;
    torch::data::Example<> get(std::size_t index) const {
      // So many are looked at before the size of a sample is known.
      const auto is_there = [&] { return testing::is_in_page_cache(path(7)); };
      if (index == 0 && eventually(is_there, std::chrono::seconds(1))) *has_come = 1;
      return TextFolder::get(index);
    }
  };
  SharedCounters counters;
  for (const std::int64_t workers : {0, 1}) {
    *counters.words = 0;
    // Where the first sample that is looked at has come meanwhile, one more is looked at for each
    // that is fetched.
    EXPECT_TRUE(testing::in_one_of_many_attempts([&] {
      EXPECT_TRUE(drop_all(dataset));
      DataLoader loader(Waiting{{dataset}, counters.words}, options_with(workers).read_ahead(12));
      const auto pass = targets_of(loader);
      EXPECT_EQ(pass.samples.size(), 30U);
      EXPECT_TRUE(pass.errors.empty());
      return *counters.words == 1;
    })) << workers;
  }
}

TEST_F(ReadAheadTest, ProcessesWhoseFilesAreCachedGetNoThreads) {
  const TextFolder dataset{folder};
  dataset.write();
  DataLoader loader(dataset, options_with(0));
  if (!native::is_cached(dataset.path(20), 0, 1)) {
    GTEST_SKIP() << "this file system does not say what it keeps";
  }
  EXPECT_EQ(targets_of(loader).samples.size(), 30U);
  EXPECT_EQ(readers_in_state('S') + readers_in_state('R') + readers_in_state('D'), 0);
}

TEST_F(ReadAheadTest, GoesOnFromAStateWithinAnEpoch) {
  const TarShards shards({write_archive(folder, 50)}, &decode_member);
  for (const std::int64_t workers : {0, 2}) {
    DataLoader first(shards, options_with(workers).shuffle(true));
    std::vector<std::int64_t> rest;
    std::optional<LoaderState> state;
    std::size_t count = 0;
    for (auto& batch : first) {
      if (++count == 5) state = first.state();
      if (count <= 5) continue;
      const auto* target = batch.target.const_data_ptr<std::int64_t>();
      rest.insert(rest.end(), target, target + batch.target.size(0));
    }
    DataLoader second(shards, options_with(2 - workers).shuffle(true).read_ahead(7));
    ASSERT_TRUE(state);
    second.load_state(*state);
    EXPECT_EQ(targets_of(second).samples, rest);
  }
}

TEST_F(ReadAheadTest, ALoaderInAForkReadsWithoutIt) {
  const TextFolder dataset{folder};
  dataset.write();
  if (!drop_all(dataset)) GTEST_SKIP() << "this file system keeps all in memory";
  DataLoader loader(dataset, options_with(0));
  auto batch = loader.begin();
  static_cast<void>(*batch);
  if (readers_in_state('S') + readers_in_state('R') + readers_in_state('D') == 0) {
    GTEST_SKIP() << "this file system does not say what it keeps";
  }
  // A thread that allocates memory during a fork is too much for AddressSanitizer.
  EXPECT_TRUE(eventually([] { return readers_in_state('R') + readers_in_state('D') == 0; }));
  EXPECT_EQ(status_of_child([&] { return targets_of(loader).samples.size() == 30 ? 0 : 1; }), 0);
  EXPECT_EQ(targets_of(loader).samples.size(), 30U);
}

TEST_F(ReadAheadTest, WorkersThatDieAreReplaced) {
  TextFolder dataset{folder};
  dataset.write();
  SharedCounters counters;
  struct Dying : TextFolder {
    std::atomic<int>* deaths = nullptr;
    torch::data::Example<> get(std::size_t index) const {
      if (index == 11 && deaths->fetch_add(1) == 0) std::raise(SIGKILL);
      return TextFolder::get(index);
    }
  };
  DataLoader loader(Dying{dataset, counters.words}, options_with(2));
  EXPECT_EQ(targets_of(loader).samples.size(), 30U);
  EXPECT_EQ(loader.statistics().restarts, 1U);
}

// Workers that the dataset's own `files_of` ends or keeps are replaced, and no batch is lost.
struct BadNames : NamedNumbers {
  std::function<void()> at_two;
  void files_of(std::size_t index, FileParts& parts) const {
    NamedNumbers::files_of(index, parts);
    if (index == 2) at_two();
  }
};

TEST_F(ReadAheadTest, NamingFilesMayEndAWorker) {
  SharedCounters counters;
  for (const std::int64_t workers : {1, 2}) {
    counters.words[2] = 0;
    BadNames dataset;
    dataset.named = counters.words;
    dataset.at_two = [] { std::raise(SIGSEGV); };
    DataLoader loader(dataset, options_with(workers).prepare_next_epoch(false));
    const auto pass = targets_of(loader);
    EXPECT_EQ(pass.samples.size(), 20U);
    EXPECT_TRUE(pass.errors.empty());
    EXPECT_LE(counters.words[2], 1) << "whoever takes over does not run into it";
    EXPECT_EQ(loader.statistics().restarts, static_cast<std::uint64_t>(counters.words[2]));
    if (workers == 1) {
      EXPECT_EQ(counters.words[2], 1);
    }
  }
}

TEST_F(ReadAheadTest, NamingFilesMayNotKeepAWorker) {
  SharedCounters counters;
  BadNames dataset;
  dataset.named = counters.words;
  dataset.at_two = [] { ::pause(); };
  expect_with_some_limit([&](milliseconds limit) -> std::string {
    DataLoader loader(dataset, options_with(1).timeout(limit).prepare_next_epoch(false));
    const auto pass = targets_of(loader);
    if (!pass.errors.empty()) return pass.errors[0].what();
    if (loader.statistics().restarts == 0) return "the worker was not replaced";
    return pass.samples.size() == 20U ? "" : "samples are missing";
  });
}

TEST(ReadAheadOptions, AreRefusedOutOfRange) {
  for (const std::int64_t wrong : {-1, 65537}) {
    testing::expect_refusal(
        [&] { DataLoader loader(Numbers{}, options_with(0).read_ahead(wrong)); },
        "read_ahead is " + std::to_string(wrong) + "; it must be from 0 to 65536");
    testing::expect_refusal(
        [&] { DataLoader loader(Numbers{}, options_with(0).in_flight(wrong)); },
        "in_flight is " + std::to_string(wrong) + "; it must be from 0 to 65536");
  }
}

}  // namespace
}  // namespace lockstep::data
