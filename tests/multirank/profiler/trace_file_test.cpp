// SPDX-License-Identifier: BSD-3-Clause
#include "training/profiler/trace_file.h"

#include <gtest/gtest.h>
#include <lockstep/training/range.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <system_error>

#include "multirank/profiler/profiler_test_support.h"
#include "native/posix/scratch_folder.h"
#include "support/expected_errors.h"
#include "training/profiler/request_file.h"

#ifdef LOCKSTEP_TEST_NVTX
// A tool of NVTX is a table of functions that are called, in the program itself here.
#define NVTX_NO_IMPL
#include <nvtx3/nvToolsExt.h>
#endif

namespace lockstep::testing {
namespace {

using training::spans_of;
using training::TraceAdditions;
using training::TraceSpan;
using training::with_additions;
using Clock = TraceSpan::Clock;

constexpr char kTrace[] = R"({
  "schemaVersion": 1,
  "baseTimeNanoseconds": 1000000000,
  "traceEvents": [
  { "ph": "X", "cat": "cpu_op", "name": "aten::add", "pid": 1, "tid": 1, "ts": 2.500, "dur": 1.0 }
  ],
  "traceName": "elsewhere"
})";

TraceSpan span(const std::string& name, int begin, int end, const std::string& row = "row") {
  const auto at = [](int moment) { return Clock::time_point(std::chrono::nanoseconds(moment)); };
  return {name, at(begin), at(end), row, 0};
}

TraceAdditions additions(std::vector<TraceSpan> spans) {
  TraceAdditions all;
  all.name = "a \"name\"";
  all.backend = "single";
  all.rank = 3;
  all.world_size = 4;
  all.process = 17;
  all.spans = std::move(spans);
  return all;
}

TEST(TraceFile, WhatKinetoWroteStays) {
  const json found = json::parse(with_additions(kTrace, additions({})));
  json expected = json::parse(kTrace);
  expected["traceName"] = "a \"name\"";
  expected["distributedInfo"] = {{"backend", "single"}, {"rank", 3}, {"world_size", 4}};
  EXPECT_EQ(found, expected);
}

TEST(TraceFile, SpansCountFromTheBaseOfTheTrace) {
  auto all = additions({span("\"odd\" \\ \x01 \u00e4", 5, 1234)});
  const json found = json::parse(with_additions(kTrace, all));
  const auto spans = events_of(found, "lockstep");
  ASSERT_EQ(spans.size(), 1U);
  EXPECT_EQ(spans[0].at("name"), "\"odd\" \\ \x01 \u00e4");
  EXPECT_EQ(spans[0].at("pid"), 17);
  // The offset of these clocks is 0, and the base is a second.
  EXPECT_DOUBLE_EQ(spans[0].at("ts").get<double>(), -999999.995);
  EXPECT_DOUBLE_EQ(spans[0].at("dur").get<double>(), 1.229);
  EXPECT_EQ(found.at("traceEvents").size(), 4U);  // two lines about the row
  EXPECT_EQ(found.at("traceEvents").back().at("name"), "aten::add");
}

TEST(TraceFile, SpansThatOverlapHaveRowsOfTheirOwn) {
  const json found = json::parse(with_additions(
      kTrace, additions({span("c", 20, 40), span("a", 0, 30), span("b", 10, 20), span("a", 0, 30),
                         span("d", 30, 50), span("e", 0, 9, "other")})));
  std::map<std::int64_t, std::string> rows;
  for (const auto& event : found.at("traceEvents")) {
    if (event.at("name") == "thread_name") rows[event.at("tid")] = event.at("args").at("name");
  }
  std::map<std::string, std::string> row_of_span;
  const auto spans = events_of(found, "lockstep");
  for (const auto& event : spans) row_of_span[event.at("name")] = rows.at(event.at("tid"));
  EXPECT_EQ(spans.size(), 5U);  // one was there twice
  EXPECT_EQ(row_of_span,
            (std::map<std::string, std::string>{
                {"a", "row"}, {"b", "row 2"}, {"c", "row 2"}, {"d", "row"}, {"e", "other"}}));
}

TEST(TraceFile, ATraceWithoutEventsTakesSpans) {
  const json found = json::parse(with_additions(R"({"traceEvents": [
  ]})",
                                                additions({span("only", 0, 1)})));
  EXPECT_EQ(events_of(found, "lockstep").size(), 1U);
}

TEST(TraceFile, WhatIsNoWholeTraceIsRefused) {
  const std::string whole = kTrace;
  expect_refusal([&] { static_cast<void>(with_additions("{}", additions({}))); },
                 "2 bytes that are no trace as Kineto of LibTorch 2.11 writes it");
  expect_refusal(
      [&] { static_cast<void>(with_additions(whole.substr(0, whole.size() - 1), additions({}))); },
      "breaks off after " + std::to_string(whole.size() - 1) + " bytes; the disk may be full");
  expect_refusal(
      [&] {
        static_cast<void>(
            with_additions(R"({"baseTimeNanoseconds": x, "traceEvents": []})", additions({})));
      },
      "a base time that is no number");
}

TEST(TimeOfDay, IsThatOfTheSystem) {
  const auto day = training::TimeOfDay::now();
  const auto before = std::chrono::system_clock::now().time_since_epoch();
  const std::chrono::nanoseconds found(day.of(Clock::now()));
  const auto after = std::chrono::system_clock::now().time_since_epoch();
  EXPECT_GT(found + std::chrono::milliseconds(500), before);
  EXPECT_LT(found - std::chrono::milliseconds(500), after);
}

TEST(SpansOf, LeaveOutWhatHasNotHappened) {
  const auto at = [](int moment) { return Clock::time_point(std::chrono::seconds(moment)); };
  DistributedDataParallelStatistics statistics;
  EXPECT_TRUE(spans_of(statistics).empty());
  auto& moments = statistics.moments;
  moments = {at(8), at(9), at(3), at(5), at(4), at(5), at(6)};
  statistics.buckets = {{10, {"a"}, at(4), at(5)}, {20, {"b"}, at(7), at(6)}, {30, {"c"}, {}, {}}};
  std::vector<std::string> found;
  for (const auto& part : spans_of(statistics, "net")) {
    found.push_back(part.row + ": " + part.name + " " +
                    std::to_string(part.begin.time_since_epoch() / std::chrono::seconds(1)) + "-" +
                    std::to_string(part.end.time_since_epoch() / std::chrono::seconds(1)) + " " +
                    std::to_string(part.bytes));
  }
  // The second bucket is under way in a new step.
  EXPECT_EQ(found,
            (std::vector<std::string>{
                "net: forward 8-9 0", "net: backward 3-5 0", "net: exposed communication 5-6 0",
                "net communication: communication 4-6 0", "net buckets: bucket 0 4-5 10"}));
}

TEST(ScratchFolder, IsOfThisUserAloneAndGoesWithItsFiles) {
  const std::filesystem::path parent = std::filesystem::temp_directory_path();
  std::filesystem::path path;
  {
    const native::ScratchFolder folder(parent.string(), "lockstep_scratch.");
    path = folder.path();
    EXPECT_EQ(path.parent_path(), parent);
    EXPECT_EQ(path.filename().string().rfind("lockstep_scratch.", 0), 0U);
    EXPECT_EQ(std::filesystem::status(path).permissions(), std::filesystem::perms::owner_all);
    std::filesystem::create_directory(path / "more");
    std::ofstream(path / "more" / "file") << "text";
  }
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_THROW(native::ScratchFolder("/proc", "x"), std::system_error);
}

TEST(RequestFile, IsLookedAtOnceASecond) {
  const auto path =
      std::filesystem::temp_directory_path() / ("lockstep_request_" + std::to_string(::getpid()));
  std::filesystem::remove(path);
  using training::RequestFile;
  auto now = RequestFile::Clock::now();
  RequestFile request(path);
  std::ofstream(path) << "";
  EXPECT_FALSE(request.look(now + RequestFile::kInterval / 2));
  now += RequestFile::kInterval * 2;
  EXPECT_TRUE(request.look(now));
  EXPECT_FALSE(request.look(now += RequestFile::kInterval));  // the same
  std::filesystem::remove(path);
  EXPECT_FALSE(request.look(now += RequestFile::kInterval));
  std::ofstream(path) << "";
  EXPECT_FALSE(request.look(now + RequestFile::kInterval / 2));
  EXPECT_TRUE(request.look(now + RequestFile::kInterval));
  std::filesystem::remove(path);
}

#ifdef LOCKSTEP_TEST_NVTX
std::vector<std::string>& heard() {
  static std::vector<std::string> all;
  return all;
}

nvtxDomainHandle_t create_domain(const char* name) {
  heard().push_back(std::string("domain ") + name);
  static int domain = 0;
  return reinterpret_cast<nvtxDomainHandle_t>(&domain);
}

int push(nvtxDomainHandle_t /*domain*/, const nvtxEventAttributes_t* attributes) {
  heard().push_back(std::string("push ") + attributes->message.ascii);
  return 0;
}

int pop(nvtxDomainHandle_t /*domain*/) {
  heard().emplace_back("pop");
  return 0;
}

int listen(NvtxGetExportTableFunc_t get_table) {
  const auto* tables = static_cast<const NvtxExportTableCallbacks*>(get_table(NVTX_ETID_CALLBACKS));
  NvtxFunctionTable functions = nullptr;
  unsigned int size = 0;
  if (tables->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &functions, &size) == 0) return 0;
  const auto set = [&](unsigned int id, auto function) {
    *functions[id] = reinterpret_cast<NvtxFunctionPointer>(function);
  };
  set(NVTX_CBID_CORE2_DomainCreateA, &create_domain);
  set(NVTX_CBID_CORE2_DomainRangePushEx, &push);
  set(NVTX_CBID_CORE2_DomainRangePop, &pop);
  return 1;
}

TEST(Range, IsARangeOfNvtx) {
  { const training::Range first("the first range makes the domain"); }
  heard().clear();
  {
    const training::Range outer("outer");
    const training::Range inner(std::string_view("inner range").substr(0, 5));
  }
  EXPECT_EQ(heard(), (std::vector<std::string>{"push outer", "push inner", "pop", "pop"}));
}
#endif

}  // namespace
}  // namespace lockstep::testing

#ifdef LOCKSTEP_TEST_NVTX
extern "C" NvtxInitializeInjectionNvtxFunc_t InitializeInjectionNvtx2_fnptr;
NvtxInitializeInjectionNvtxFunc_t InitializeInjectionNvtx2_fnptr = &lockstep::testing::listen;
#endif
