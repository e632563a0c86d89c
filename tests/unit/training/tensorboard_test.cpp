// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/training/background_writer.h>
#include <lockstep/training/log_sinks.h>
#include <lockstep/training/tensorboard.h>
#include <torch/torch.h>

#include <array>
#include <cmath>
#include <fstream>
#include <map>
#include <set>
#include <stdexcept>
#include <thread>

#include "support/event_files.h"
#include "support/expected_errors.h"
#include "support/forks.h"
#include "support/in_process_ranks.h"
#include "support/raw_safetensors.h"

namespace lockstep::training {
namespace {

using testing::event_files_in;
using testing::events_of;
using testing::expect_refusal;
using testing::fields_of;
using testing::values_of;

class TensorBoardTest : public ::testing::Test {
 protected:
  [[nodiscard]] std::filesystem::path run() const { return folder_ / "run"; }
  /// What the only file of the run has.
  [[nodiscard]] std::vector<testing::FoundValue> values() const {
    const auto files = event_files_in(run());
    EXPECT_EQ(files.size(), 1U);
    return values_of(files.at(0));
  }

  /// With a queue of so many bytes, which never overflows, however busy the machine is.
  static TensorBoardOptions patient(std::int64_t queue_bytes) {
    return TensorBoardOptions().writer(
        std::make_shared<BackgroundWriter>(BackgroundWriterOptions()
                                               .queue_bytes(queue_bytes)
                                               .full_queue_wait(std::chrono::minutes(1))));
  }

  TemporaryFolder folder_;
};

TEST_F(TensorBoardTest, ScalarsAreWrittenInTheirOrder) {
  const std::vector<std::string> tags{"loss/train", "a b",      "back\\slash",        " ",
                                      "/",          "\xC3\xA4", std::string(300, 'x')};
  const std::vector<std::int64_t> steps{0, 1, 5, 5, 2, -7, std::int64_t{1} << 40};
  {
    TensorBoard board(run());
    for (const auto step : steps) {
      for (const auto& tag : tags) board.scalar(tag, 0.5 * static_cast<double>(step), step);
    }
    board.flush();
    EXPECT_EQ(values().size(), tags.size() * steps.size());
  }
  const auto found = values();
  ASSERT_EQ(found.size(), tags.size() * steps.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i].tag, tags[i % tags.size()]);
    EXPECT_EQ(found[i].step, steps[i / tags.size()]);
    EXPECT_EQ(found[i].scalar(), 0.5F * static_cast<float>(found[i].step));
  }
}

TEST_F(TensorBoardTest, WallTimesAreOfTheCalls) {
  TensorBoard board(run());
  const auto now = [] {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch())
        .count();
  };
  const double before = now();
  board.scalar("a", 1, 1);
  const double after = now();
  board.flush();
  const auto times = fields_of(events_of(board.file()).at(1), 1);
  ASSERT_EQ(times.size(), 1U);
  EXPECT_GE(std::bit_cast<double>(times[0].word), before);
  EXPECT_LE(std::bit_cast<double>(times[0].word), after);
}

TEST_F(TensorBoardTest, TensorsOfOneElementAreScalars) {
  {
    TensorBoard board(run());
    std::int64_t step = 0;
    for (const auto type :
         {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kInt, at::kLong}) {
      at::Tensor value = torch::full({}, 3, type);
      board.scalar("a", value, ++step);
      value.zero_();  // the board has the value from before
    }
    board.scalar("a", torch::full({1, 1}, 3.0).requires_grad_(), ++step);
    const auto expect = [&](const at::Tensor& value, const char* part) {
      expect_refusal([&] { board.scalar("loss", value, 1); }, part);
    };
    expect(torch::ones({2}), "the tensor for 'loss' has shape [2]; it must have one element");
    expect(torch::ones({0}), "the tensor for 'loss' has shape [0]");
    expect(at::Tensor(), "the tensor for 'loss' is undefined");
    expect(torch::ones({}, at::kComplexFloat), "has complex numbers");
    expect(torch::empty({}, at::TensorOptions().device(at::kMeta)),
           "must be dense and have values");
  }
  const auto found = values();
  EXPECT_EQ(found.size(), 7U);
  for (const auto& value : found) EXPECT_EQ(value.scalar(), 3);
}

TEST_F(TensorBoardTest, WhatIsNotFiniteIsWritten) {
  TensorBoard board(run());
  board.scalar("a", std::nan(""), 1);
  board.scalar("a", -HUGE_VAL, 2);
  board.scalar("a", 1e300, 3);
  board.flush();
  const auto found = values();
  EXPECT_TRUE(std::isnan(found.at(0).scalar()));
  EXPECT_EQ(found.at(1).scalar(), -HUGE_VAL);
  EXPECT_EQ(found.at(2).scalar(), HUGE_VAL);
}

TEST_F(TensorBoardTest, DoublePrecisionWritesTensors) {
  TensorBoard board(run(), TensorBoardOptions().double_precision(true));
  board.scalar("a", 16777217, 1);
  board.flush();
  const auto found = values();
  const auto tensor = fields_of(found.at(0).bytes, 8);
  ASSERT_EQ(tensor.size(), 1U);
  EXPECT_EQ(fields_of(tensor[0].bytes, 6).at(0).bytes,
            little(std::bit_cast<std::uint64_t>(16777217.0)));
}

TEST_F(TensorBoardTest, TagsMustBeReadable) {
  TensorBoard board(run());
  const at::Tensor image = torch::zeros({2, 2});
  expect_refusal([&] { board.scalar("", 1, 1); }, "the tag is empty");
  expect_refusal([&] { board.scalar("a\xFF", 1, 1); }, "the tag 'a\xEF\xBF\xBD' is no UTF-8");
  expect_refusal([&] { board.scalar("", image.sum(), 1); }, "the tag is empty");
  expect_refusal([&] { board.histogram("", image, 1); }, "the tag is empty");
  expect_refusal([&] { board.image("", image, 1); }, "the tag is empty");
  expect_refusal([&] { board.text("", "", 1); }, "the tag is empty");
}

TEST_F(TensorBoardTest, TextsAreMadeReadable) {
  TensorBoard board(run());
  board.text("a", "one\xFFtwo", 1);
  board.text("a", "", 2);
  board.flush();
  const auto text = [&](std::size_t i) {
    return std::string(fields_of(fields_of(values().at(i).bytes, 8).at(0).bytes, 8).at(0).bytes);
  };
  EXPECT_EQ(text(0), "one\xEF\xBF\xBDtwo");
  EXPECT_EQ(text(1), "");
}

TEST_F(TensorBoardTest, HistogramsNameWhatIsNotFinite) {
  TensorBoard board(run());
  board.histogram("h", torch::tensor({1.0, 2.0}), 1);
  board.histogram("h", torch::tensor({1.0, std::nan(""), HUGE_VAL}), 2);
  board.histogram("h", torch::tensor({std::nan("")}), 3);
  expect_refusal([&] { board.histogram("h", torch::ones({0}), 1); }, "'h' has no elements");
  expect_refusal([&] { board.histogram("h", torch::ones({2}, at::kComplexFloat), 1); }, "complex");
  expect_refusal([&] { board.histogram("h", at::Tensor(), 1); }, "undefined");
  board.flush();
  const auto found = values();
  ASSERT_EQ(found.size(), 4U);
  EXPECT_EQ(found[0].tag, "h");
  EXPECT_EQ(fields_of(found[0].bytes, 5).size(), 1U);
  EXPECT_EQ(found[1].tag, "h");
  EXPECT_EQ(found[2].tag, "h/nonfinite");
  EXPECT_EQ(found[2].scalar(), 2);
  EXPECT_EQ(found[3].tag, "h/nonfinite");
  EXPECT_EQ(found[3].step, 3);
}

TEST_F(TensorBoardTest, ImagesOfOtherShapesAndTypesAreRefused) {
  TensorBoard board(run());
  const auto expect = [&](const at::Tensor& image, const char* part) {
    expect_refusal([&] { board.image("i", image, 1); }, part);
  };
  expect(torch::zeros({2, 3, 4}), "shape [2, 3, 4]; it must be [height, width], or [channels,");
  expect(torch::zeros({1, 3, 4, 4}), "it must be [height, width], or [channels, height, width]");
  expect(torch::zeros({5}), "it must be [height, width]");
  expect(torch::zeros({3, 0, 4}), "no pixels");
  expect(torch::zeros({3, 4, 4}, at::kLong), "is of type Long; it must be uint8");
  expect(torch::zeros({1}).expand({1 << 15, 1 << 15}), "268435456 pixels at most");
}

TEST_F(TensorBoardTest, OptionsAreChecked) {
  const auto expect = [&](const TensorBoardOptions& options, const char* part) {
    expect_refusal([&] { TensorBoard board(run(), options); }, part);
  };
  using std::chrono::milliseconds;
  expect(TensorBoardOptions().flush_interval(milliseconds(1001)),
         "flush_interval is 1001; it must be");
  expect(TensorBoardOptions().flush_interval(milliseconds(-1)), "flush_interval is -1");
  expect(TensorBoardOptions().queue_bytes(4095), "queue_bytes is 4095; it must be from 4096");
  expect(TensorBoardOptions().waiting_bytes(0), "waiting_bytes is 0");
  expect(TensorBoardOptions().resume_at(-1), "resume_at is -1");
  expect(TensorBoardOptions().suffix("a/b"), "suffix is 'a/b'; it must be a part of a file's name");
  expect_refusal([] { TensorBoard board(""); }, "the path of the folder is empty");
  EXPECT_FALSE(std::filesystem::exists(run()));
}

TEST_F(TensorBoardTest, ItsFileHasANameThatTensorBoardKnows) {
  TensorBoard board(run(), TensorBoardOptions().suffix(".mine"));
  const std::string name = board.file().filename().string();
  EXPECT_EQ(name.find("events.out.tfevents."), 0U);
  EXPECT_TRUE(name.ends_with("." + std::to_string(::getpid()) + ".0.mine")) << name;
  EXPECT_EQ(event_files_in(run()), std::vector<std::filesystem::path>{board.file()});
  EXPECT_EQ(events_of(board.file()).size(), 1U);  // at once, so that TensorBoard sees the run
}

TEST_F(TensorBoardTest, EachStartMakesAFileThatComesAfterTheOthers) {
  // Files of a clock that was ahead, and what is none of ours.
  std::filesystem::create_directories(run() / "rank1");
  write_bytes(run() / "events.out.tfevents.4000000000.zzz.99.9", "old");
  write_bytes(run() / "events.out.tfevents.abc", "");
  write_bytes(run() / "events.out.tfevents.99999999999999999999", "");
  std::vector<std::filesystem::path> files;
  for (int i = 0; i < 3; ++i) {
    TensorBoard board(run());
    board.scalar("a", i, i);
    EXPECT_TRUE(files.empty() || board.file() > files.back()) << board.file();
    files.push_back(board.file());
  }
  EXPECT_NE(files[0].string().find("tfevents.4000000001."), std::string::npos) << files[0];
  EXPECT_EQ(read_bytes(run() / "events.out.tfevents.4000000000.zzz.99.9"), "old");
  for (const auto& file : files) EXPECT_EQ(values_of(file).size(), 1U);
}

TEST_F(TensorBoardTest, AResumedRunHidesLaterPoints) {
  TensorBoard board(run(), TensorBoardOptions().resume_at(100));
  const auto events = events_of(board.file());
  ASSERT_EQ(events.size(), 3U);
  EXPECT_EQ(events[1].substr(9),
            "\x10\x64\x1A\x0D"
            "brain.Event:2");
  EXPECT_EQ(events[2].substr(9), "\x10\x64\x3A\x02\x08\x01");
}

TEST_F(TensorBoardTest, AFolderThatCannotBeMadeIsAnErrorAtOnce) {
  write_bytes(folder_ / "file", "text");
  expect_refusal([&] { TensorBoard board(folder_ / "file"); }, (folder_ / "file").c_str());
  expect_refusal([&] { TensorBoard board(folder_ / "file" / "below"); }, "TensorBoard: ");
  expect_refusal([&] { TensorBoard board("/proc/no/board"); }, "/proc/no");
}

TEST_F(TensorBoardTest, NothingIsTakenAfterClose) {
  TensorBoard board(run());
  board.scalar("a", 1, 1);
  board.close();
  EXPECT_EQ(values().size(), 1U);
  board.close();
  board.flush();
  expect_refusal([&] { board.scalar("a", 1, 1); }, "the board is closed");
  expect_refusal([&] { board.text("a", "", 1); }, "the board is closed");
  EXPECT_EQ(values().size(), 1U);
}

TEST_F(TensorBoardTest, RecordsOfAnySizeKeepTheirOrder) {
  {
    TensorBoard board(run(), patient(4096));
    for (int i = 0; i < 200; ++i) {
      board.text("t",
                 std::string(static_cast<std::size_t>(i * i * 7), static_cast<char>('a' + i % 26)),
                 i);
    }
    board.text("t", std::string(std::size_t{20} << 20, 'x'), 200);
  }
  const auto found = values();
  ASSERT_EQ(found.size(), 201U);
  for (std::size_t i = 0; i < 200; ++i) {
    EXPECT_EQ(found[i].step, static_cast<std::int64_t>(i));
    const auto text = fields_of(fields_of(found[i].bytes, 8).at(0).bytes, 8).at(0).bytes;
    EXPECT_EQ(text, std::string(i * i * 7, static_cast<char>('a' + i % 26)));
  }
}

TEST_F(TensorBoardTest, SeveralThreadsMayWrite) {
  constexpr int kThreads = 4;
  constexpr int kCalls = 3000;
  {
    TensorBoard board(run(), patient(16384));
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < kThreads; ++thread) {
      threads.emplace_back([&board, thread] {
        const std::string tag = "thread/" + std::to_string(thread);
        for (int i = 0; i < kCalls; ++i) {
          board.scalar(tag, i, i);
          if (i % 500 == 0) board.text(tag, std::string(30000, 'x'), i);
          if (i % 1000 == 0) board.flush();
        }
      });
    }
    threads.clear();
    board.flush();
  }
  std::map<std::string, std::int64_t> next;
  for (const auto& value : values()) {
    if (value.tag.ends_with("text_summary")) continue;
    EXPECT_EQ(value.step, next[value.tag]++);
  }
  EXPECT_EQ(next.size(), std::size_t{kThreads});
  for (const auto& [tag, count] : next) EXPECT_EQ(count, kCalls) << tag;
}

TEST_F(TensorBoardTest, AForkOfTheProcessWritesNothing) {
  {
    TensorBoard board(run());
    board.scalar("a", 1, 1);
    testing::run_in_fork([&] {
      board.scalar("child", 1, 1);
      board.scalar("child", torch::ones({}), 1);
      board.text("child", std::string(1 << 20, 'x'), 1);
      board.histogram("child", torch::ones({3}), 1);
      board.hyperparameters({{"lr", 0.1}});
      board.flush();
      board.close();
      board.~TensorBoard();
    });
    board.scalar("a", 2, 2);
  }
  const auto found = values();
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].tag, "a");
  EXPECT_EQ(found[1].tag, "a");
}

TEST_F(TensorBoardTest, AChildMayHaveABoardOfItsOwn) {
  TensorBoard board(run());
  board.scalar("a", 1, 1);
  testing::run_in_fork([&] {
    TensorBoard own(folder_ / "child");
    own.scalar("b", 1, 1);
    own.close();
  });
  EXPECT_EQ(values_of(event_files_in(folder_ / "child").at(0)).at(0).tag, "b");
}

TEST_F(TensorBoardTest, ManyBoardsCanShareAWriter) {
  auto writer = std::make_shared<BackgroundWriter>();
  std::vector<std::filesystem::path> files;
  for (int i = 0; i < 100; ++i) {  // more than there can be writers
    TensorBoard board(run(), TensorBoardOptions().writer(writer));
    board.scalar("a", i, i);
    files.push_back(board.file());
  }
  writer->append(folder_ / "log", "line");
  // What the thread says of itself goes to logs, or to stderr.
  ::testing::internal::CaptureStderr();
  TensorBoard board(run(), TensorBoardOptions().writer(writer));
  EXPECT_THROW(writer->write_file(folder_ / "none" / "file", "text").get(), c10::Error);
  board.close();
  EXPECT_NE(::testing::internal::GetCapturedStderr().find("a file was not written"),
            std::string::npos);
  EXPECT_EQ(events_of(board.file()).size(), 1U);
  for (std::size_t i = 0; i < files.size(); ++i) {
    EXPECT_EQ(values_of(files[i]).at(0).scalar(), static_cast<float>(i));
  }
  ASSERT_TRUE(writer->flush(std::chrono::minutes(1)));
  EXPECT_EQ(read_bytes(folder_ / "log"), "line\n");
  EXPECT_EQ(writer->statistics().lines, 101U);
  EXPECT_EQ(writer->statistics().lines_lost, 0U);
}

/// The content of the plugin, of the values of hyper-parameters, by their tags.
std::map<std::string, std::string> hparams_in(const std::vector<testing::FoundValue>& values) {
  std::map<std::string, std::string> contents;
  for (const auto& value : values) {
    if (!value.tag.starts_with("_hparams_")) continue;
    const auto plugin = fields_of(fields_of(value.bytes, 9).at(0).bytes, 1).at(0).bytes;
    EXPECT_EQ(fields_of(plugin, 1).at(0).bytes, "hparams");
    contents[value.tag] = fields_of(plugin, 2).at(0).bytes;
  }
  return contents;
}

TEST_F(TensorBoardTest, HyperparametersSayHowTheRunHasEnded) {
  {
    TensorBoard board(run());
    board.hyperparameters({{"lr", 0.1}, {"batch", 64}, {"arch", "resnet18"}, {"amp", true}},
                          {"acc"});
    expect_refusal([&] { board.hyperparameters({{"lr", 0.1}}); }, "one set a run");
    board.flush();
    EXPECT_EQ(hparams_in(values()).size(), 2U);
  }
  const auto contents = hparams_in(values());
  EXPECT_EQ(contents.size(), 3U);
  EXPECT_EQ(contents.at("_hparams_/session_end_info"), "\x22\x02\x08\x01");
}

TEST_F(TensorBoardTest, HyperparametersOfARunThatThrowsFail) {
  try {
    TensorBoard board(run());
    board.hyperparameters({{"lr", 0.1}});
    throw std::runtime_error("the run fails");
  } catch (const std::runtime_error&) {
  }
  EXPECT_EQ(hparams_in(values()).at("_hparams_/session_end_info"), "\x22\x02\x08\x02");
}

TEST_F(TensorBoardTest, HyperparametersAreChecked) {
  TensorBoard board(run());
  const auto expect = [&](const Hyperparameters& values, const std::vector<std::string>& metrics,
                          const char* part) {
    expect_refusal([&] { board.hyperparameters(values, metrics); }, part);
  };
  expect({}, {}, "there are none");
  expect({{"", 1}}, {}, "the name of a hyper-parameter is empty");
  expect({{"a", 1}, {"a", 2}}, {}, "'a' comes twice");
  expect({{"a", "\xFF"}}, {}, "the text of 'a' is no UTF-8");
  expect({{"a", 1}}, {""}, "the tag of a metric is empty");
  expect({{"a", 1}}, {"b", "b"}, "the metric 'b' comes twice");
  board.hyperparameters({{"a", 1}});
}

class TensorBoardRanks : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, TensorBoardRanks, ::testing::Values(1, 2, 3));

TEST_P(TensorBoardRanks, RankZeroWrites) {
  const TemporaryFolder folder;
  testing::run_ranks_or_throw(GetParam(), [&](std::shared_ptr<ProcessGroup> group) {
    TensorBoard board(*group, folder / "run");
    board.scalar("a", group->rank(), 1);
    board.scalar("a", torch::full({}, group->rank()), 2);
    board.hyperparameters({{"lr", 0.1}});
    board.flush();
    EXPECT_EQ(board.file().empty(), group->rank() != 0);
    // Misuse is the same everywhere.
    expect_refusal([&] { board.scalar("", 1, 1); }, "the tag is empty");
    expect_refusal([&] { board.scalar("a", torch::ones({2}), 1); }, "it must have one element");
    expect_refusal([&] { board.image("a", torch::ones({2}), 1); }, "it must be [height, width]");
    board.close();
    expect_refusal([&] { board.scalar("a", 1, 1); }, "the board is closed");
    group->close();
  });
  const auto files = event_files_in(folder / "run");
  ASSERT_EQ(files.size(), 1U);
  EXPECT_EQ(values_of(files[0]).at(0).scalar(), 0);
}

TEST_P(TensorBoardRanks, EachRankWritesOnRequest) {
  const TemporaryFolder folder;
  testing::run_ranks_or_throw(GetParam(), [&](std::shared_ptr<ProcessGroup> group) {
    TensorBoard board(*group, folder / "run", TensorBoardOptions().every_rank(true));
    board.scalar("a", group->rank(), 1);
    board.close();
    group->close();
  });
  for (int rank = 0; rank < GetParam(); ++rank) {
    const auto own = rank == 0 ? folder / "run" : folder / ("run/rank" + std::to_string(rank));
    const auto files = event_files_in(own);
    ASSERT_EQ(files.size(), 1U);
    EXPECT_EQ(values_of(files[0]).at(0).scalar(), static_cast<float>(rank));
  }
}

}  // namespace
}  // namespace lockstep::training
