// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/core/version.h>
#include <lockstep/training/background_writer.h>
#include <lockstep/training/log_sinks.h>
#include <stdlib.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <set>

#include "support/free_port.h"
#include "support/log_servers.h"
#include "support/raw_safetensors.h"
#include "support/timed_waits.h"
#include "training/background/otlp_transport.h"

namespace lockstep::training {
namespace {

using logging::Level;
using nlohmann::json;
using std::chrono::milliseconds;
using testing::happens;
using testing::HttpServer;
using testing::kTestPatience;
using Answer = testing::HttpServer::Answer;

/// The texts of all lines in all requests, in their order.
std::vector<std::string> texts_of(const HttpServer& server) {
  std::vector<std::string> texts;
  for (const auto& request : server.requests.all()) {
    const json body = json::parse(request.body);
    for (const auto& record : body["resourceLogs"][0]["scopeLogs"][0]["logRecords"]) {
      texts.push_back(record["body"]["stringValue"]);
    }
  }
  return texts;
}

class OtlpLog : public ::testing::Test {
 protected:
  OtlpLog() {
    // Of the machine that runs the tests: they are for other servers.
    for (const char* name : {"http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"})
      ::unsetenv(name);
  }
  static std::shared_ptr<BackgroundWriter> make_writer() {
    return std::make_shared<BackgroundWriter>(
        BackgroundWriterOptions().close_timeout(milliseconds(100)));
  }
};

TEST_F(OtlpLog, PostsJsonAsTheProtocolHasIt) {
  HttpServer server({Answer()});
  const auto writer = make_writer();
  const auto sink = otlp_log(writer, OtlpOptions()
                                         .endpoint(server.url() + "/")
                                         .service_name("training")
                                         .attributes({{"rank", "3"}, {"host \"a\"", "b\\c"}})
                                         .headers({{"Authorization", "Bearer secret"}}));
  const auto before = std::chrono::system_clock::now().time_since_epoch();
  sink(Level::Debug, "debug");
  sink(Level::Info, "two\nlines \"quoted\" \xC3\xA4");
  sink(Level::Warning, std::string("no UTF-8 \xFF and \0", 16));
  sink(Level::Error, "error");
  ASSERT_TRUE(writer->flush(kTestPatience));
  const auto after = std::chrono::system_clock::now().time_since_epoch();
  std::vector<json> records;
  for (const auto& request : server.requests.all()) {
    EXPECT_EQ(request.first_line, "POST /v1/logs HTTP/1.1");
    EXPECT_NE(request.headers.find("\r\ncontent-type: application/json\r\n"), std::string::npos);
    EXPECT_NE(request.headers.find("\r\nauthorization: bearer secret\r\n"), std::string::npos);
    const json body = json::parse(request.body);
    ASSERT_EQ(body["resourceLogs"].size(), 1U);
    EXPECT_EQ(body["resourceLogs"][0]["resource"]["attributes"],
              json::parse(R"([{"key":"service.name","value":{"stringValue":"training"}},
                {"key":"host \"a\"","value":{"stringValue":"b\\c"}},
                {"key":"rank","value":{"stringValue":"3"}}])"));
    const json& scope = body["resourceLogs"][0]["scopeLogs"][0];
    EXPECT_EQ(scope["scope"], json({{"name", "lockstep"}, {"version", std::string(version())}}));
    for (const auto& record : scope["logRecords"]) records.push_back(record);
  }
  ASSERT_EQ(records.size(), 4U);
  const std::vector<std::pair<int, std::string>> severities{
      {5, "DEBUG"}, {9, "INFO"}, {13, "WARN"}, {17, "ERROR"}};
  for (std::size_t i = 0; i < records.size(); ++i) {
    EXPECT_EQ(records[i]["severityNumber"], severities[i].first);
    EXPECT_EQ(records[i]["severityText"], severities[i].second);
    // A string of digits: 64 bits are too many for a number of JSON.
    const auto time =
        std::chrono::nanoseconds(std::stoll(records[i]["timeUnixNano"].get<std::string>()));
    EXPECT_GE(time, before);
    EXPECT_LE(time, after);
    EXPECT_EQ(records[i]["observedTimeUnixNano"], records[i]["timeUnixNano"]);
    const std::set<std::string> names{"timeUnixNano", "observedTimeUnixNano", "severityNumber",
                                      "severityText", "body"};
    for (const auto& [name, value] : records[i].items()) EXPECT_TRUE(names.contains(name)) << name;
  }
  EXPECT_EQ(records[1]["body"]["stringValue"], "two\nlines \"quoted\" \xC3\xA4");
  EXPECT_EQ(records[2]["body"]["stringValue"], std::string("no UTF-8 \xEF\xBF\xBD and \0", 18));
  EXPECT_EQ(writer->statistics().lines_written, 4U);
}

TEST_F(OtlpLog, SendsInBatches) {
  HttpServer server({Answer()});
  const auto writer = make_writer();
  const auto sink = otlp_log(writer, OtlpOptions().endpoint(server.url()).batch_lines(10));
  std::vector<std::string> expected;
  for (int i = 0; i < 95; ++i) {
    expected.push_back("line " + std::to_string(i));
    sink(Level::Info, expected.back());
  }
  ASSERT_TRUE(writer->flush(kTestPatience));
  EXPECT_EQ(texts_of(server), expected);
  EXPECT_GE(server.requests.size(), 10U);
}

TEST_F(OtlpLog, SendsAgainAfterAnAnswerThatMeansLater) {
  for (const int status : {429, 502, 503, 504}) {
    Answer later;
    later.status = status;
    HttpServer server({later, later, Answer()});
    const auto writer = make_writer();
    const auto sink = otlp_log(writer, OtlpOptions().endpoint(server.url()));
    sink(Level::Info, "line");
    ASSERT_TRUE(writer->flush(kTestPatience));
    EXPECT_EQ(texts_of(server), (std::vector<std::string>{"line", "line", "line"})) << status;
    EXPECT_EQ(writer->statistics().lines_written, 1U);
    EXPECT_EQ(writer->statistics().lines_lost, 0U);
  }
}

TEST_F(OtlpLog, SendsAgainAfterAConnectionThatWasCut) {
  Answer cut;
  cut.is_cut = true;
  HttpServer server({cut, Answer()});
  const auto writer = make_writer();
  const auto sink = otlp_log(writer, OtlpOptions().endpoint(server.url()));
  sink(Level::Info, "line");
  ASSERT_TRUE(writer->flush(kTestPatience));
  EXPECT_EQ(texts_of(server), (std::vector<std::string>{"line", "line"}));
  EXPECT_EQ(writer->statistics().lines_written, 1U);
}

TEST_F(OtlpLog, AServerThatNeverAnswersHoldsUpNoFile) {
  Answer silent;
  silent.is_silent = true;
  HttpServer server({silent});
  const TemporaryFolder folder;
  ::testing::internal::CaptureStderr();
  {
    const auto writer = make_writer();
    const auto sink = otlp_log(writer, OtlpOptions().endpoint(server.url()));
    sink(Level::Info, "line");
    ASSERT_TRUE(happens([&] { return server.requests.size() == 1; }));
    writer->append(folder / "log", "line");
    EXPECT_TRUE(happens([&] { return read_bytes(folder / "log") == "line\n"; }));
    EXPECT_FALSE(writer->flush(milliseconds(10)));
  }
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("1 line was lost here"), std::string::npos) << said;
}

TEST_F(OtlpLog, ARequestHasATimeout) {
  Answer silent;
  silent.is_silent = true;
  HttpServer server({silent, Answer()});
  const auto writer = make_writer();
  const auto sink =
      otlp_log(writer, OtlpOptions().endpoint(server.url()).timeout(milliseconds(300)));
  sink(Level::Info, "line");
  ASSERT_TRUE(happens([&] { return server.requests.size() >= 2; }));
  EXPECT_TRUE(writer->flush(kTestPatience));
}

TEST_F(OtlpLog, LinesAreSentWhenTheServerComes) {
  const auto port = testing::free_port();
  const auto writer = make_writer();
  const auto sink =
      otlp_log(writer, OtlpOptions().endpoint("http://localhost:" + std::to_string(port)));
  for (int i = 0; i < 3; ++i) sink(Level::Info, "line " + std::to_string(i));
  EXPECT_FALSE(writer->flush(milliseconds(50)));
  HttpServer server({Answer()}, port);
  ASSERT_TRUE(writer->flush(kTestPatience));
  EXPECT_EQ(texts_of(server), (std::vector<std::string>{"line 0", "line 1", "line 2"}));
}

TEST_F(OtlpLog, WhatIsRefusedForGoodIsCountedAndTheCountIsSent) {
  Answer refusal;
  refusal.status = 400;
  HttpServer server({refusal, Answer()});
  const auto writer = make_writer();
  const auto sink = otlp_log(writer, OtlpOptions().endpoint(server.url()));
  ::testing::internal::CaptureStderr();
  sink(Level::Info, "refused");
  ASSERT_TRUE(happens([&] { return writer->statistics().lines_lost == 1; }));
  ASSERT_TRUE(happens([&] { return server.requests.size() == 2; }));
  sink(Level::Info, "taken");
  ASSERT_TRUE(writer->flush(kTestPatience));
  const std::string said = ::testing::internal::GetCapturedStderr();
  const auto texts = texts_of(server);
  ASSERT_EQ(texts.size(), 3U);
  EXPECT_NE(texts[1].find("1 line was lost here"), std::string::npos) << texts[1];
  EXPECT_NE(texts[1].find("HTTP status 400"), std::string::npos) << texts[1];
  EXPECT_EQ(texts[2], "taken");
  // If the server takes nothing, its operator would never learn it.
  EXPECT_NE(said.find("refuses them: HTTP status 400"), std::string::npos) << said;
  const auto statistics = writer->statistics();
  EXPECT_EQ(statistics.lines, 2U);
  EXPECT_EQ(statistics.lines_written, 1U);
}

TEST_F(OtlpLog, LinesThatTheServerTakesInPartAreCounted) {
  Answer partial;
  partial.body = R"({"partialSuccess":{"rejectedLogRecords":"1","errorMessage":"too old"}})";
  HttpServer server({partial, Answer()});
  const auto writer = make_writer();
  const auto sink = otlp_log(writer, OtlpOptions().endpoint(server.url()));
  ::testing::internal::CaptureStderr();
  sink(Level::Info, "line");
  ASSERT_TRUE(writer->flush(kTestPatience));
  ASSERT_TRUE(happens([&] { return server.requests.size() == 2; }));
  ::testing::internal::GetCapturedStderr();
  EXPECT_NE(texts_of(server)[1].find("too old"), std::string::npos);
  EXPECT_EQ(writer->statistics().lines_lost, 1U);
  EXPECT_EQ(writer->statistics().lines_written, 0U);
}

TEST_F(OtlpLog, ARequestHasAboutAMebibyteAtMost) {
  HttpServer server({Answer()});
  const auto writer = make_writer();
  const auto sink = otlp_log(writer, OtlpOptions().endpoint(server.url()));
  for (int i = 0; i < 3; ++i) sink(Level::Warning, std::string(600'000, 'x'));
  ASSERT_TRUE(writer->flush(kTestPatience));
  EXPECT_EQ(server.requests.size(), 3U);
  EXPECT_EQ(writer->statistics().lines_written, 3U);
}

TEST_F(OtlpLog, KnowsAnAnswerThatMeansTooLarge) {
  Answer too_large;
  too_large.status = 413;
  HttpServer server({too_large});
  OtlpTransport transport(OtlpOptions().endpoint(server.url()));
  transport.begin({{}, {}});
  auto state = LogTransport::State::Busy;
  ASSERT_TRUE(happens([&] {
    state = transport.poll({});
    return state != LogTransport::State::Busy;
  }));
  EXPECT_EQ(state, LogTransport::State::TooLarge);
}

TEST_F(OtlpLog, AFlushKeepsThePauseThatTheServerAsksForAndTheEndDoesNot) {
  Answer later;
  later.status = 503;
  later.headers = "Retry-After: 1000\r\n";
  HttpServer server({later, Answer()});
  {
    const auto writer = make_writer();
    const auto sink = otlp_log(writer, OtlpOptions().endpoint(server.url()));
    sink(Level::Info, "line");
    ASSERT_TRUE(happens([&] { return server.requests.size() == 1; }));
    for (int i = 0; i < 3; ++i) EXPECT_FALSE(writer->flush(milliseconds(100)));
    EXPECT_EQ(server.requests.size(), 1U);
  }
  EXPECT_EQ(server.requests.size(), 2U);
}

TEST(PartialSuccess, IsReadWhateverTheBody) {
  EXPECT_EQ(parse_partial_success("").rejected, 0U);
  EXPECT_EQ(parse_partial_success("no JSON").rejected, 0U);
  EXPECT_EQ(parse_partial_success("{}").rejected, 0U);
  EXPECT_EQ(parse_partial_success("[[[[[[[[[[[[[[[[[[").rejected, 0U);
  EXPECT_EQ(parse_partial_success(R"({"partialSuccess":{}})").rejected, 0U);
  EXPECT_EQ(parse_partial_success(R"({"partialSuccess":{"rejectedLogRecords":-1}})").rejected, 0U);
  EXPECT_EQ(parse_partial_success(R"({"partialSuccess":{"rejectedLogRecords":7}})").rejected, 7U);
  EXPECT_EQ(parse_partial_success(R"({"rejectedLogRecords":7})").rejected, 0U);
}

}  // namespace
}  // namespace lockstep::training
