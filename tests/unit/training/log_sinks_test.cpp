// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/core/logging.h>
#include <lockstep/training/background_writer.h>
#include <lockstep/training/log_sinks.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <regex>
#include <thread>

#include "support/expected_errors.h"
#include "support/log_servers.h"
#include "support/raw_safetensors.h"
#include "support/timed_waits.h"
#include "training/background/log_text.h"
#include "training/background/syslog_transport.h"

namespace lockstep::training {
namespace {

using logging::Level;
using std::chrono::milliseconds;
using testing::Collected;
using testing::DatagramServer;
using testing::expect_refusal;
using testing::happens;
using testing::kTestPatience;
using testing::TcpServer;

/// A message of RFC 5424, in its parts.
struct SyslogMessage {
  int priority = -1;
  std::string time;
  std::string host;
  std::string application;
  std::string process;
  std::string text;
};

SyslogMessage parse(const std::string& message) {
  // HEADER SP STRUCTURED-DATA SP MSG, as section 6 of the RFC has them.
  static const std::regex format(
      "<([0-9]{1,3})>1 ([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{6}Z) "
      "([!-~]{1,255}) ([!-~]{1,48}) ([!-~]{1,128}) - - (.*)");
  std::smatch match;
  if (!std::regex_match(message, match, format)) {
    ADD_FAILURE() << "no message of RFC 5424: " << message;
    return {};
  }
  return {std::stoi(match[1]), match[2], match[3], match[4], match[5], match[6]};
}

TEST(LogText, EscapesWhatIsNoLine) {
  const auto escaped = [](const std::string& text) {
    std::string result;
    append_escaped(result, text);
    return result;
  };
  EXPECT_EQ(escaped("plain text, \\ and UTF-8 \xC3\xA4"), "plain text, \\ and UTF-8 \xC3\xA4");
  EXPECT_EQ(escaped("a\nb\r\tc"), "a\\nb\\r\\tc");
  EXPECT_EQ(escaped("\x1b[31m\x7f"), "\\x1b[31m\\x7f");
  EXPECT_EQ(escaped("\xC2\x9B!"), "\\x9b!");  // a control character of one byte in Latin 1
  EXPECT_EQ(escaped(std::string(1, '\0')), "\\x00");
}

TEST(LogText, WritesTimesInUtc) {
  std::string text;
  append_time(text, 0);
  EXPECT_EQ(text, "1970-01-01T00:00:00.000000Z");
  text.clear();
  append_time(text, 1'709'164'799'999'999'999);
  EXPECT_EQ(text, "2024-02-28T23:59:59.999999Z");
  text.clear();
  append_time(text, 1'709'164'800'000'001'000);
  EXPECT_EQ(text, "2024-02-29T00:00:00.000001Z");
}

TEST(FileLog, WritesTimeLevelPrefixAndMessage) {
  const TemporaryFolder folder;
  {
    const auto writer = std::make_shared<BackgroundWriter>();
    const auto sink = file_log(writer, folder / "log", FileLogOptions().prefix("rank 3"));
    sink(Level::Warning, "two\nlines");
    sink(Level::Info, "");
  }
  std::ifstream file(folder / "log");
  std::string first;
  std::string second;
  std::getline(file, first);
  std::getline(file, second);
  const std::string time = "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{6}Z";
  EXPECT_TRUE(std::regex_match(first, std::regex(time + " warning rank 3: two\\\\nlines")))
      << first;
  EXPECT_TRUE(std::regex_match(second, std::regex(time + " info rank 3: "))) << second;
}

TEST(FileLog, KeepsTheWriterAliveAndIsTheSinkOfTheLibrary) {
  const TemporaryFolder folder;
  auto writer = std::make_shared<BackgroundWriter>();
  set_log_sink(file_log(writer, folder / "log"));
  const std::weak_ptr<BackgroundWriter> observer = writer;
  writer.reset();
  logging::warning("still there");
  EXPECT_FALSE(observer.expired());
  set_log_sink({});  // ends the writer, which writes what it has
  EXPECT_TRUE(observer.expired());
  EXPECT_NE(read_bytes(folder / "log").find("still there"), std::string::npos);
}

TEST(FileLog, TheWritersOwnWarningsDoNotHang) {
  const TemporaryFolder folder;
  auto writer = std::make_shared<BackgroundWriter>();
  set_log_sink(file_log(writer, folder / "log"));
  auto failing = writer->write_file(folder / "none" / "file", "text");
  EXPECT_THROW(failing.get(), c10::Error);
  EXPECT_TRUE(happens([&] {
    return read_bytes(folder / "log").find("a file was not written: ") != std::string::npos;
  }));
  set_log_sink({});
}

TEST(FileLog, TheThreadsOwnWarningsDoNotGoToASinkThatMayWaitForIt) {
  const TemporaryFolder folder;
  BackgroundWriter writer;
  std::atomic<int> calls{0};
  set_log_sink([&](Level, std::string_view) {
    ++calls;
    writer.flush(kTestPatience);
  });
  ::testing::internal::CaptureStderr();
  auto failing = writer.write_file(folder / "none" / "file", "text");
  EXPECT_THROW(failing.get(), c10::Error);
  EXPECT_TRUE(writer.flush(kTestPatience));
  set_log_sink({});
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("a file was not written: "), std::string::npos) << said;
  EXPECT_EQ(calls, 0);
}

TEST(FileLog, TwoUsersOfAFileMustAgree) {
  const TemporaryFolder folder;
  const auto writer = std::make_shared<BackgroundWriter>();
  const auto first = file_log(writer, folder / "log", FileLogOptions().prefix("rank 0"));
  const auto same = file_log(writer, folder / "." / "log", FileLogOptions().prefix("rank 0"));
  for (const auto& options :
       {FileLogOptions().prefix("rank 1"), FileLogOptions().prefix("rank 0").rotate_bytes(7),
        FileLogOptions().prefix("rank 0").rotated_files(7)}) {
    expect_refusal([&] { static_cast<void>(file_log(writer, folder / "log", options)); },
                   "it is written by file_log with the prefix 'rank 0'");
  }
  expect_refusal([&] { writer->append(folder / "log", "line"); }, "cannot be written by append");
  writer->append(folder / "lines", "line");
  expect_refusal([&] { static_cast<void>(file_log(writer, folder / "lines")); },
                 "it is written by append");
}

TEST(LogSinks, AllOfGivesEachLineToAll) {
  std::string first;
  std::string second;
  const auto sink = all_of({[&](Level, std::string_view text) { first += text; },
                            [&](Level, std::string_view text) { second += text; }});
  sink(Level::Info, "a");
  sink(Level::Info, "b");
  EXPECT_EQ(first, "ab");
  EXPECT_EQ(second, "ab");
  expect_refusal([] { static_cast<void>(all_of({nullptr})); }, "all_of: one of the sinks is empty");
}

TEST(LogSinks, RefuseWhatIsOutOfRange) {
  const auto writer = std::make_shared<BackgroundWriter>();
  const auto syslog = [&](const SyslogOptions& options) {
    static_cast<void>(syslog_log(writer, options));
  };
  using Options = SyslogOptions;
  expect_refusal([&] { syslog(Options().facility(24)); },
                 "facility is 24; it must be from 0 to 23");
  expect_refusal([&] { syslog(Options().message_bytes(100)); }, "message_bytes is 100");
  expect_refusal([&] { syslog(Options().message_bytes(65'001)); }, "from 480 to 65000");
  expect_refusal([&] { syslog(Options().application("my program")); }, "without blanks");
  expect_refusal([&] { syslog(Options().application("")); }, "1 to 48 characters");
  expect_refusal([&] { syslog(Options().server(std::string(200, 'a'))); }, "the path of a socket");
  expect_refusal([&] { syslog(Options().timeout(milliseconds(0))); }, "timeout (in milliseconds)");
  for (const char* server :
       {"host", "host:", ":514", "host:0", "host:65536", "host:5x", "::1:514"}) {
    expect_refusal([&] { syslog(Options().transport(SyslogTransport::Udp).server(server)); },
                   "it must be host:port or [address]:port");
  }
  expect_refusal([&] { syslog(Options().spool(SpoolOptions().memory_bytes(0))); },
                 "memory_bytes is 0");
  expect_refusal([&] { static_cast<void>(file_log(nullptr, "log")); }, "the writer is null");
  expect_refusal([&] { static_cast<void>(file_log(writer, "")); }, "the path is empty");
  expect_refusal(
      [&] { static_cast<void>(file_log(writer, "a", FileLogOptions().rotate_bytes(-1))); },
      "rotate_bytes is -1");
  expect_refusal(
      [&] { static_cast<void>(file_log(writer, "a", FileLogOptions().rotated_files(-1))); },
      "rotated_files is -1");
  using Otlp = OtlpOptions;
  for (const char* endpoint : {"", "localhost:4318", "ftp://host", "http://"}) {
    expect_refusal([&] { static_cast<void>(otlp_log(writer, Otlp().endpoint(endpoint))); },
                   "it must be like http://host:4318");
  }
  expect_refusal([&] { static_cast<void>(otlp_log(writer, Otlp().batch_lines(0))); },
                 "batch_lines is 0");
  expect_refusal(
      [&] {
        static_cast<void>(otlp_log(writer, Otlp().headers({{"a:b", "c"}})));
      },
      "is no header");
  expect_refusal(
      [&] {
        static_cast<void>(otlp_log(writer, Otlp().headers({{"a", "b\nc"}})));
      },
      "is no header");
}

void expect_messages(const std::vector<std::string>& messages, int facility) {
  ASSERT_EQ(messages.size(), 4U);
  const std::vector<std::pair<int, std::string>> expected{
      {7, "debug"}, {6, "two\\nlines"}, {4, "warning \xC3\xA4"}, {3, "error"}};
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const SyslogMessage message = parse(messages[i]);
    EXPECT_EQ(message.priority, facility * 8 + expected[i].first);
    EXPECT_EQ(message.text, expected[i].second);
    EXPECT_EQ(message.application, "train.rank3");
    EXPECT_EQ(message.process, std::to_string(::getpid()));
  }
}

void send_four(const logging::Sink& sink) {
  sink(Level::Debug, "debug");
  sink(Level::Info, "two\nlines");
  sink(Level::Warning, "warning \xC3\xA4");
  sink(Level::Error, "error");
}

TEST(SyslogLog, SendsDatagramsToTheSocketOfThisHost) {
  const TemporaryFolder folder;
  const std::string path = folder / "log";
  DatagramServer server(path);
  const auto writer = std::make_shared<BackgroundWriter>();
  send_four(syslog_log(writer, SyslogOptions().server(path).application("train.rank3")));
  ASSERT_TRUE(writer->flush(kTestPatience));
  ASSERT_TRUE(happens([&] { return server.messages.size() == 4; }));
  expect_messages(server.messages.all(), 1);
}

TEST(SyslogLog, SendsDatagramsWhenTheirSocketComes) {
  const TemporaryFolder folder;
  const std::string path = folder / "log";
  const auto writer = std::make_shared<BackgroundWriter>();
  send_four(syslog_log(writer, SyslogOptions().server(path).application("train.rank3")));
  EXPECT_FALSE(writer->flush(milliseconds(20)));
  DatagramServer server(path);
  ASSERT_TRUE(writer->flush(kTestPatience));
  ASSERT_TRUE(happens([&] { return server.messages.size() == 4; }));
  expect_messages(server.messages.all(), 1);
}

TEST(SyslogLog, SendsDatagramsByUdp) {
  DatagramServer server;
  const auto writer = std::make_shared<BackgroundWriter>();
  send_four(syslog_log(writer, SyslogOptions()
                                   .transport(SyslogTransport::Udp)
                                   .server(server.name())
                                   .facility(16)
                                   .application("train.rank3")));
  ASSERT_TRUE(writer->flush(kTestPatience));
  ASSERT_TRUE(happens([&] { return server.messages.size() == 4; }));
  expect_messages(server.messages.all(), 16);
}

TEST(SyslogLog, CountsTheBytesOfEachMessageOverTcp) {
  Collected<std::string> messages;
  TcpServer server([&](TcpServer::Connection& connection) { read_counted(connection, messages); });
  const auto writer = std::make_shared<BackgroundWriter>();
  // By name, so that the resolver is asked.
  send_four(syslog_log(writer, SyslogOptions()
                                   .transport(SyslogTransport::Tcp)
                                   .server("localhost:" + std::to_string(server.port()))
                                   .application("train.rank3")));
  ASSERT_TRUE(writer->flush(kTestPatience));
  ASSERT_TRUE(happens([&] { return messages.size() == 4; }));
  expect_messages(messages.all(), 1);
  EXPECT_EQ(writer->statistics().lines_written, 4U);
}

TEST(SyslogLog, CutsLongMessagesBetweenCharacters) {
  const SyslogOptions options = SyslogOptions().message_bytes(480);
  const std::string origin = syslog_origin(options);
  std::string text;
  for (int i = 0; i < 1000; ++i) text += "\xC3\xA4";
  const std::string message = syslog_message({0, Level::Info, false, text}, options, origin);
  EXPECT_LE(message.size(), 480U);
  EXPECT_GE(message.size(), 478U);
  const auto at = message.find(" [cut; it had 2");
  ASSERT_NE(at, std::string::npos) << message;
  EXPECT_EQ(message[at - 1], '\xA4');
}

TEST(SyslogLog, SendsAgainWhenTheServerIsBack) {
  Collected<std::string> messages;
  const auto serve = [&](TcpServer::Connection& connection) { read_counted(connection, messages); };
  auto server = std::make_unique<TcpServer>(serve);
  const auto port = server->port();
  const auto writer = std::make_shared<BackgroundWriter>();
  const auto sink =
      syslog_log(writer, SyslogOptions().transport(SyslogTransport::Tcp).server(server->name()));
  sink(Level::Info, "first");
  ASSERT_TRUE(writer->flush(kTestPatience));
  ASSERT_TRUE(happens([&] { return messages.size() == 1; }));
  server.reset();
  sink(Level::Info, "second");
  EXPECT_FALSE(writer->flush(milliseconds(50)));
  sink(Level::Info, "third");
  server = std::make_unique<TcpServer>(serve, port);
  ASSERT_TRUE(writer->flush(kTestPatience));
  ASSERT_TRUE(happens([&] { return messages.size() >= 3; }));
  const auto all = messages.all();
  EXPECT_EQ(parse(all[1]).text, "second");
  EXPECT_EQ(parse(all.back()).text, "third");
}

TEST(SyslogLog, AConnectionThatIsCutLosesNothing) {
  // The first connections end after some messages, with an error.
  Collected<std::string> messages;
  int connections = 0;
  TcpServer server([&](TcpServer::Connection& connection) {
    if (++connections > 3) {
      read_counted(connection, messages);
      return;
    }
    const std::string some = connection.receive();
    connection.reset();
  });
  const auto writer = std::make_shared<BackgroundWriter>();
  const auto sink =
      syslog_log(writer, SyslogOptions().transport(SyslogTransport::Tcp).server(server.name()));
  constexpr int kLines = 3000;
  int given = 0;
  while (given < kLines) {
    for (int i = 0; i < 100; ++i) sink(Level::Info, "line " + std::to_string(given++));
    std::this_thread::sleep_for(milliseconds(1));
  }
  ASSERT_TRUE(writer->flush(kTestPatience));
  ASSERT_TRUE(happens([&] { return messages.size() > 0; }));
  std::vector<bool> has_come(kLines, false);
  ASSERT_TRUE(happens([&] {
    for (const auto& message : messages.all()) {
      has_come[static_cast<std::size_t>(std::stoi(parse(message).text.substr(5)))] = true;
    }
    return has_come.back();
  }));
  // What the server's system had and the server did not read is all that can be missing: at most
  // what one call of `receive` gave to each of the first connections.
  const auto first = std::find(has_come.begin(), has_come.end(), true);
  EXPECT_EQ(std::count(first, has_come.end(), false), 0);
  EXPECT_EQ(writer->statistics().lines_lost, 0U);
}

TEST(SyslogLog, ADatagramThatIsTooLongHoldsUpNoOther) {
  const TemporaryFolder folder;
  const std::string path = folder / "log";
  DatagramServer server(path);
  SyslogTransport5424 transport(SyslogOptions().server(path).message_bytes(1 << 20));
  transport.begin({{0, Level::Info, false, "first"},
                   {0, Level::Info, false, std::string(1'000'000, 'x')},
                   {0, Level::Info, false, "last"}});
  auto state = LogTransport::State::Busy;
  ASSERT_TRUE(happens([&] {
    state = transport.poll(std::chrono::steady_clock::now());
    return state != LogTransport::State::Busy;
  }));
  EXPECT_EQ(state, LogTransport::State::Sent);
  EXPECT_EQ(transport.refused_lines(), 1U);
  EXPECT_NE(transport.failure().find("too long for its socket"), std::string::npos);
  ASSERT_TRUE(happens([&] { return server.messages.size() == 2; }));
  EXPECT_EQ(parse(server.messages.all()[1]).text, "last");
}

TEST(SyslogLog, AServerThatTakesNothingHoldsUpNoFile) {
  // Accepts and never reads.
  TcpServer server([](TcpServer::Connection& connection) {
    while (!connection.is_over()) std::this_thread::sleep_for(milliseconds(5));
  });
  const TemporaryFolder folder;
  const auto writer = std::make_shared<BackgroundWriter>(
      BackgroundWriterOptions().close_timeout(milliseconds(100)));
  const auto sink = syslog_log(writer, SyslogOptions()
                                           .transport(SyslogTransport::Tcp)
                                           .server(server.name())
                                           .spool(SpoolOptions().memory_bytes(1 << 20)));
  for (int i = 0; i < 100; ++i) sink(Level::Info, std::string(100'000, 'x'));
  // The queue may be full at first; the number of lines that were lost is a line too.
  ASSERT_TRUE(happens([&] { return writer->append(folder / "log", "line"); }));
  EXPECT_TRUE(
      happens([&] { return read_bytes(folder / "log").find("line\n") != std::string::npos; }));
  EXPECT_GT(writer->statistics().lines_lost, 0U);
}

TEST(SyslogLog, AHostWithoutAnAddressIsSaidAtTheEnd) {
  ::testing::internal::CaptureStderr();
  {
    const auto own = std::make_shared<BackgroundWriter>();
    const auto sink = syslog_log(
        own, SyslogOptions().transport(SyslogTransport::Udp).server("no.such.host.invalid:514"));
    sink(Level::Info, "line");
    EXPECT_FALSE(own->flush(milliseconds(100)));
  }
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("syslog server no.such.host.invalid:514: 1 line was lost here"),
            std::string::npos)
      << said;
}

}  // namespace
}  // namespace lockstep::training
