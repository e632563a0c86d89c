// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/file_tree.h"

#include <cerrno>
#include <filesystem>
#include <string>
#include <vector>

#include "support/failing_file_system.h"
#include "support/reader_test_support.h"

namespace lockstep::native {
namespace {

namespace fs = std::filesystem;

class FileTreeTest : public data::ReaderTest {
 protected:
  void make_tree() {
    fs::create_directories(path("tree/a/b"));
    fs::create_directories(path("outside"));
    write("tree/one", data::text_bytes("1"));
    write("tree/a/two", data::text_bytes("2"));
    write("tree/a/b/three", data::text_bytes("3"));
    write("outside/mine", data::text_bytes("4"));
    fs::create_symlink(path("outside"), path("tree/a/link"));
    fs::create_symlink(path("nowhere"), path("tree/a/broken"));
  }
};

/// Notes which folders are synced, and which are made.
class NotingFileSystem final : public FileSystem {
 public:
  std::vector<std::string> notes;

  int open(const std::string& path, int flags, mode_t mode) override {
    notes.push_back("sync " + path);
    return FileSystem::open(path, flags, mode);
  }
  int make_folder(const std::string& path) override {
    notes.push_back("make " + path);
    return FileSystem::make_folder(path);
  }
};

TEST_F(FileTreeTest, EachFolderIsOnTheDiskBeforeOneBelowItIsMade) {
  NotingFileSystem files;
  make_folders(path("a/b/"), files);
  EXPECT_TRUE(fs::is_directory(path("a/b")));
  const std::string root = fs::path(path("a")).parent_path();
  // A process that was killed may have made the root a moment ago.
  const std::string above = fs::path(root).parent_path();
  EXPECT_EQ(files.notes,
            (std::vector<std::string>{"sync " + above, "make " + path("a"), "sync " + root,
                                      "make " + path("a/b"), "sync " + path("a")}));
  // Likewise the whole.
  files.notes.clear();
  make_folders(path("a/b"), files);
  EXPECT_EQ(files.notes, std::vector<std::string>{"sync " + path("a")});
}

TEST_F(FileTreeTest, AFolderThatCannotBeMadeIsAnErrorThatNamesIt) {
  write("file", data::text_bytes("mine"));
  for (const std::string name : {"file", "file/below/it"}) {
    try {
      make_folders(path(name));
      ADD_FAILURE() << "no error";
    } catch (const std::system_error& error) {
      EXPECT_EQ(error.code().value(), ENOTDIR);
      EXPECT_NE(std::string(error.what()).find(path("file")), std::string::npos) << error.what();
    }
  }
}

TEST_F(FileTreeTest, RemovesAllThatIsInAFolderAndNothingElse) {
  make_tree();
  EXPECT_FALSE(remove_tree(path("tree")));
  EXPECT_FALSE(fs::exists(path("tree")));
  EXPECT_EQ(read("outside/mine"), data::text_bytes("4"));
  EXPECT_FALSE(remove_tree(path("tree"))) << "what is not there is no error";
  EXPECT_FALSE(remove_tree(path("outside/mine")));
  EXPECT_TRUE(fs::is_empty(path("outside")));
}

TEST_F(FileTreeTest, GoesOnWhereSomethingCannotBeRemoved) {
  for (int call = 0; call < 8; ++call) {
    make_tree();
    testing::FailingFileSystem files(call, EIO);
    EXPECT_EQ(remove_tree(path("tree"), files).value(), EIO) << call;
    EXPECT_EQ(files.calls(), 8) << "five files and three folders";
    EXPECT_EQ(read("outside/mine"), data::text_bytes("4"));
    fs::remove_all(path("tree"));
    fs::remove_all(path("outside"));
  }
}

}  // namespace
}  // namespace lockstep::native
