// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/data/loader/loader_statistics.h>
#include <lockstep/parallel/statistics.h>
#include <lockstep/training/prometheus_file.h>
#include <lockstep/training/run_log.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <limits>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "support/expected_errors.h"
#include "support/raw_safetensors.h"
#include "support/timed_waits.h"

namespace lockstep::training {
namespace {

using nlohmann::json;
using testing::expect_refusal;
using testing::kTestPatience;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::vector<json> lines_in(const std::filesystem::path& path) {
  std::vector<json> lines;
  std::istringstream text(read_bytes(path));
  for (std::string line; std::getline(text, line);) lines.push_back(json::parse(line));
  return lines;
}

class RunLogTest : public ::testing::Test {
 protected:
  const TemporaryFolder folder;
  std::shared_ptr<BackgroundWriter> writer = std::make_shared<BackgroundWriter>();
  std::filesystem::path path = folder / "deep" / "rank2.jsonl";

  std::vector<json> written() {
    EXPECT_TRUE(writer->flush(kTestPatience));
    return lines_in(path);
  }
};

TEST_F(RunLogTest, WritesALineInTheOrderOfItsValues) {
  const auto before = std::chrono::system_clock::now();
  RunLog log(writer, path, 2);
  EXPECT_TRUE(log.write(10, {{"loss", 0.31}, {"a", 1}, {"is_best", true}, {"note", "\"x\"\n"}}));
  EXPECT_TRUE(writer->flush(kTestPatience));
  const auto text = read_bytes(path);
  const auto comma = text.find(',');
  EXPECT_EQ(text.substr(0, 5), "{\"t\":");
  EXPECT_EQ(text.substr(comma),
            ",\"step\":10,\"rank\":2,\"loss\":0.31,\"a\":1,\"is_best\":true,"
            "\"note\":\"\\\"x\\\"\\n\"}\n");
  const auto t = written().at(0).at("t").get<double>();
  const auto since_1970 = [](auto time) {
    return std::chrono::duration<double>(time.time_since_epoch()).count();
  };
  EXPECT_GE(t, since_1970(before) - 1e-3);
  EXPECT_LE(t, since_1970(std::chrono::system_clock::now()) + 1e-3);
}

TEST_F(RunLogTest, GivesEveryBitOfANumberBack) {
  RunLog log(writer, path);
  const std::vector<double> numbers{0.1,
                                    -0.0,
                                    1.0 / 3,
                                    5e-324,
                                    std::numeric_limits<double>::max(),
                                    1e22,
                                    1e21,
                                    123456789012345678.0,
                                    0.1F,
                                    100};
  for (const double number : numbers) log.write(0, {{"x", number}});
  const auto largest = std::numeric_limits<std::uint64_t>::max();
  log.write(1, {{"x", largest}, {"y", std::numeric_limits<std::int64_t>::min()}});
  const auto lines = written();
  ASSERT_EQ(lines.size(), numbers.size() + 1);
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    EXPECT_EQ(std::bit_cast<std::uint64_t>(lines[i].at("x").get<double>()),
              std::bit_cast<std::uint64_t>(numbers[i]))
        << numbers[i];
  }
  EXPECT_EQ(lines.back().at("x").get<std::uint64_t>(), largest);
  EXPECT_EQ(lines.back().at("y").get<std::int64_t>(), std::numeric_limits<std::int64_t>::min());
}

TEST_F(RunLogTest, HasTextsForWhatJsonHasNoNumberFor) {
  RunLog log(writer, path);
  log.write(0, {{"a", std::nan("")}, {"b", kInfinity}, {"c", -kInfinity}, {"d", 0.5F}});
  const auto line = written().at(0);
  EXPECT_EQ(line.at("a"), "NaN");
  EXPECT_EQ(line.at("b"), "Infinity");
  EXPECT_EQ(line.at("c"), "-Infinity");
  EXPECT_EQ(line.at("d"), 0.5);
}

TEST_F(RunLogTest, TakesMapsAndPrefixes) {
  RunLog log(writer, path);
  log.write(1, std::map<std::string, double>{{"b", 2}, {"a", 1}});
  log.write(2, "x", RunValues{{"step", 3}, {"link", "tcp"}});
  const auto lines = written();
  EXPECT_EQ(lines.at(0).at("b"), 2.0);
  EXPECT_EQ(lines.at(1).at("x/step"), 3);
  EXPECT_EQ(lines.at(1).at("x/link"), "tcp");
}

TEST_F(RunLogTest, WritesStatisticsUnderFixedNames) {
  RunLog log(writer, path);
  DistributedDataParallelStatistics ddp;
  ddp.steps = 4;
  ddp.total.forward = std::chrono::duration<double>(1.5);
  ddp.total.exposed = std::chrono::duration<double>(0.25);
  ddp.buckets.resize(2);
  ddp.link = "tcp 1 GB/s";
  log.write_statistics(4, "ddp", ddp);
  data::LoaderStatistics loader;
  loader.batches = 5;
  loader.seconds = 2;
  loader.stall_seconds = 0.5;
  log.write_statistics(4, "loader", loader);
  CheckpointerStatistics checkpoints;
  checkpoints.saves = 1;
  checkpoints.bytes = 1000;
  checkpoints.stall = std::chrono::duration<double>(0.125);
  log.write_statistics(4, "checkpoints", checkpoints);
  const auto lines = written();
  EXPECT_EQ(lines.at(0).at("ddp/steps"), 4);
  EXPECT_EQ(lines.at(0).at("ddp/forward_seconds"), 1.5);
  EXPECT_EQ(lines.at(0).at("ddp/exposed_seconds"), 0.25);
  EXPECT_EQ(lines.at(0).at("ddp/buckets"), 2);
  EXPECT_EQ(lines.at(0).at("ddp/link"), "tcp 1 GB/s");
  EXPECT_EQ(lines.at(1).at("loader/stall_seconds"), 0.5);
  EXPECT_EQ(lines.at(1).at("loader/batches"), 5);
  EXPECT_EQ(lines.at(1).at("loader/bottleneck"), loader.bottleneck());
  EXPECT_EQ(lines.at(2).at("checkpoints/saves"), 1);
  EXPECT_EQ(lines.at(2).at("checkpoints/bytes"), 1000);
  EXPECT_EQ(lines.at(2).at("checkpoints/stall_seconds"), 0.125);
}

TEST_F(RunLogTest, IsRotatedByItsWriter) {
  writer = std::make_shared<BackgroundWriter>(
      BackgroundWriterOptions().rotate_bytes(200).rotated_files(100));
  RunLog log(writer, path);
  for (int step = 0; step < 20; ++step) {
    log.write(step, {{"loss", 0.5}});
    ASSERT_TRUE(writer->flush(kTestPatience));
  }
  EXPECT_TRUE(std::filesystem::exists(path.string() + ".1"));
  // Every file has whole lines, and all steps are in one of them.
  std::vector<int> seen;
  for (const auto& entry : std::filesystem::directory_iterator(path.parent_path())) {
    for (const auto& line : lines_in(entry.path())) seen.push_back(line.at("step").get<int>());
  }
  std::sort(seen.begin(), seen.end());
  ASSERT_EQ(seen.size(), 20U);
  for (int step = 0; step < 20; ++step) EXPECT_EQ(seen[static_cast<std::size_t>(step)], step);
}

TEST_F(RunLogTest, MayBeWrittenBySeveralThreads) {
  RunLog log(writer, path);
  {
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < 4; ++thread) {
      threads.emplace_back([&, thread] {
        for (int i = 0; i < 100; ++i) log.write(i, {{"thread", thread}});
      });
    }
  }
  EXPECT_EQ(written().size(), 400U);
}

TEST_F(RunLogTest, GoesOnInAFileThatIsThere) {
  RunLog(writer, path).write(1, {{"a", 1}});
  RunLog(writer, path).write(2, {{"a", 1}});
  EXPECT_EQ(written().size(), 2U);
}

TEST_F(RunLogTest, GoesOnBehindALineThatWasCut) {
  std::filesystem::create_directories(path.parent_path());
  write_bytes(path, "{\"t\":1,\"step\":1,\"rank\":2}\n{\"t\":2,\"st");
  RunLog(writer, path, 2).write(3, {{"a", 1}});
  ASSERT_TRUE(writer->flush(kTestPatience));
  std::istringstream text(read_bytes(path));
  std::vector<std::string> lines;
  for (std::string line; std::getline(text, line);) lines.push_back(line);
  ASSERT_EQ(lines.size(), 3U);
  EXPECT_EQ(json::parse(lines[2]).at("step"), 3);
}

TEST_F(RunLogTest, RefusesWhatHasNoPlaceInALine) {
  expect_refusal([&] { RunLog(nullptr, path); }, "there is no writer");
  expect_refusal([&] { RunLog(writer, folder / "log.json"); }, "ends in '.jsonl'");
  expect_refusal([&] { RunLog(writer, path, -1); }, "the rank is -1");
  write_bytes(folder / "file", "");
  expect_refusal([&] { RunLog(writer, folder / "file" / "a" / "x.jsonl"); }, "cannot be made");
  RunLog log(writer, path);
  expect_refusal([&] { log.write(0, {{"", 1}}); }, "a value without a name");
  expect_refusal([&] { log.write(0, {{"a", 1}, {"a", 2}}); }, "the name 'a' is twice in a line");
  for (const auto* name : {"t", "step", "rank", "time", "lockstep"}) {
    expect_refusal([&] { log.write(0, {{name, 1}}); }, "which have a meaning of their own");
  }
  expect_refusal([&] { log.write(0, {{"a\xff", 1}}); }, "is no UTF-8");
  expect_refusal([&] { log.write(0, {{"a", "\xff"}}); }, "is no UTF-8");
  EXPECT_TRUE(writer->flush(kTestPatience));
  EXPECT_FALSE(std::filesystem::exists(path));
}

class PrometheusFileTest : public RunLogTest {
 protected:
  std::filesystem::path file = folder / "collector" / "run.prom";
};

TEST_F(PrometheusFileTest, HasTheFormatOfTheTextfileCollector) {
  PrometheusFile status(writer, file, 3, {{"job", "a \"b\"\\\nc"}});
  status.gauge("train_loss", 0.1).gauge("train_loss", 0.25);  // the last one counts
  status.gauge("odd", kInfinity, {{"kind", "b"}}).gauge("odd", std::nan(""), {{"kind", "a"}});
  status.counter("steps_total", 7).help("steps_total", "Steps\nso \\ far");
  status.help("never_set", "x");
  EXPECT_TRUE(status.write());
  ASSERT_TRUE(writer->flush(kTestPatience));
  const std::string job = R"({job="a \"b\"\\\nc",)";
  const std::string expected =
      "# TYPE odd gauge\n"
      "odd" +
      job +
      "kind=\"a\",rank=\"3\"} NaN\n"
      "odd" +
      job +
      "kind=\"b\",rank=\"3\"} +Inf\n"
      "# HELP steps_total Steps\\nso \\\\ far\n"
      "# TYPE steps_total counter\n"
      "steps_total" +
      job +
      "rank=\"3\"} 7\n"
      "# TYPE train_loss gauge\n"
      "train_loss" +
      job + "rank=\"3\"} 0.25\n";
  EXPECT_EQ(read_bytes(file), expected);
  EXPECT_EQ(status.text(), expected);
  // Nothing else that a collector could read.
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(file.parent_path()), {}), 1);
}

TEST_F(PrometheusFileTest, IsReplacedAsAWhole) {
  PrometheusFile status(writer, file);
  for (int step = 1; step <= 3; ++step) {
    status.counter("steps_total", step);
    ASSERT_TRUE(testing::happens([&] { return status.write(); }));
  }
  ASSERT_TRUE(writer->flush(kTestPatience));
  EXPECT_EQ(read_bytes(file), "# TYPE steps_total counter\nsteps_total{rank=\"0\"} 3\n");
}

TEST_F(PrometheusFileTest, RefusesWhatTheFormatDoesNotHave) {
  expect_refusal([&] { PrometheusFile(nullptr, file); }, "there is no writer");
  expect_refusal([&] { PrometheusFile(writer, folder / "x.txt"); }, "ends in '.prom'");
  expect_refusal([&] { PrometheusFile(writer, file, -2); }, "the rank is -2");
  expect_refusal([&] { PrometheusFile(writer, file, 0, {{"rank", "1"}}); }, "'rank' already");
  expect_refusal([&] { PrometheusFile(writer, file, 0, {{"__x", "1"}}); }, "the label '__x'");
  write_bytes(folder / "file", "");
  expect_refusal([&] { PrometheusFile(writer, folder / "file" / "a" / "x.prom"); },
                 "cannot be made");
  PrometheusFile status(writer, file, 0, {{"job", "a"}});
  for (const auto* name : {"", "1a", "a-b", "a b", "ä", "a/b"}) {
    expect_refusal([&] { status.gauge(name, 1); }, "is not of letters, digits, _ and :");
    expect_refusal([&] { status.help(name, "x"); }, "is not of letters, digits, _ and :");
  }
  status.gauge("a:b_C9", 1);
  expect_refusal([&] { status.gauge("a", 1, {{"a:b", "x"}}); }, "the label 'a:b'");
  expect_refusal([&] { status.gauge("a", 1, {{"job", "x"}}); }, "the label 'job' already");
  expect_refusal([&] { status.gauge("a", 1, {{"x", "\xff"}}); }, "is no UTF-8");
  expect_refusal([&] { status.help("a", "\xff"); }, "is no UTF-8");
  expect_refusal([&] { status.counter("a:b_C9", 1); }, "both a gauge and a counter");
  expect_refusal([&] { status.counter("n", -1); }, "counters are 0 or more");
  expect_refusal([&] { status.counter("n", std::nan("")); }, "counters are 0 or more");
  status.counter("n", 2);
  expect_refusal([&] { status.counter("n", 1); }, "falls from 2 to 1");
  expect_refusal([&] { status.gauge("n", 1); }, "both a gauge and a counter");
  EXPECT_NE(status.text().find("n{job=\"a\",rank=\"0\"} 2\n"), std::string::npos);
}

}  // namespace
}  // namespace lockstep::training
