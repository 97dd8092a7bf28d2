import com.fasterxml.jackson.databind.ObjectMapper;
import io.anserini.analysis.AnalyzerUtils;
import io.anserini.analysis.DefaultEnglishAnalyzer;
import io.anserini.index.IndexCollection;
import io.anserini.search.SimpleSearcher;
import io.anserini.search.query.BagOfWordsQueryGenerator;
import java.io.File;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.lucene.index.DirectoryReader;
import org.apache.lucene.search.IndexSearcher;
import org.apache.lucene.search.similarities.BM25Similarity;
import org.apache.lucene.store.FSDirectory;
import org.apache.lucene.util.SmallFloat;

/**
 * Asks the real Anserini, indexed and searched as WebShop does (run_indexing.sh, LuceneSearcher). Run by
 * record_anserini.py: java -cp anserini-0.14.3-fatjar.jar Anserini.java QUESTIONS.json ANSWERS.json
 *
 * <p>Questions: {"documents": {id: text}, "queries": [text], "texts": [text], "lengths": [int]}. Answers: "hits" per
 * query as [id, score] in Anserini's order, "terms" per text, "lengths" as Lucene stores them.
 */
public class Anserini {
  public static void main(String[] files) throws Exception {
    var json = new ObjectMapper();
    var questions = json.readTree(new File(files[0]));
    Path work = Files.createTempDirectory("anserini");
    var documents = new ArrayList<Map<String, String>>();
    questions.get("documents").fields().forEachRemaining(
        document -> documents.add(Map.of("id", document.getKey(), "contents", document.getValue().asText())));
    Files.createDirectory(work.resolve("documents"));
    json.writeValue(work.resolve("documents/documents.json").toFile(), documents);
    String index = work.resolve("index").toString();
    IndexCollection.main(("-collection JsonCollection -generator DefaultLuceneDocumentGenerator -threads 1"
        + " -storePositions -storeDocvectors -storeRaw -input " + work.resolve("documents") + " -index " + index)
        .split(" "));

    var analyzer = DefaultEnglishAnalyzer.newDefaultInstance();
    var searcher = new SimpleSearcher(index);
    var plain = new IndexSearcher(DirectoryReader.open(FSDirectory.open(Path.of(index))));
    plain.setSimilarity(new BM25Similarity(0.9f, 0.4f));
    var hits = new ArrayList<List<List<Object>>>();
    for (var query : questions.get("queries")) {
      var found = new ArrayList<List<Object>>();
      var asked = new BagOfWordsQueryGenerator().buildQuery("contents", analyzer, query.asText());
      for (var hit : searcher.search(query.asText(), 50)) {
        // Anserini rounds the scores that it shows, after it has sorted; here is the score by which it sorted.
        found.add(List.of(hit.docid, plain.explain(asked, hit.lucene_docid).getValue().floatValue()));
      }
      hits.add(found);
    }
    var terms = new ArrayList<List<String>>();
    for (var text : questions.get("texts")) terms.add(AnalyzerUtils.analyze(analyzer, text.asText()));
    var lengths = new ArrayList<Integer>();
    for (var length : questions.get("lengths"))
      lengths.add(SmallFloat.byte4ToInt(SmallFloat.intToByte4(length.asInt())));
    json.writeValue(new File(files[1]), new TreeMap<>(Map.of("hits", hits, "terms", terms, "lengths", lengths)));
  }
}
